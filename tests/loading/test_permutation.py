from collections import Counter

import numpy as np
import pytest

from vatt.loading.order import permute


@pytest.mark.parametrize("seed", [[1, 0, 0, 0], [1, 7, 0, 3]])
def test_every_number_comes_once(seed: list[int]) -> None:
    for size in [*range(1, 150), 255, 256, 257, 4095, 4096, 4097, 10_007, 70_000]:
        drawn = permute(np.arange(size), size, seed)
        assert np.array_equal(np.sort(drawn), np.arange(size)), size


def test_places_can_be_asked_one_by_one() -> None:
    whole = permute(np.arange(1000), 1000, [5])
    assert [int(permute(np.array([place]), 1000, [5])[0]) for place in range(0, 1000, 50)] == list(
        whole[::50]
    )


def test_values_depend_on_no_version_of_a_library() -> None:
    # A run that is taken up with another numpy goes on in the same order.
    assert permute(np.arange(10), 10, [1, 2021, 0, 0]).tolist() == [1, 8, 0, 9, 4, 7, 5, 2, 3, 6]


def test_all_orders_of_few_are_equally_frequent() -> None:
    orders = Counter(tuple(permute(np.arange(4), 4, [seed])) for seed in range(2400))
    assert len(orders) == 24
    # Each is expected 100 times, with a standard deviation of 10.
    assert all(60 < count < 145 for count in orders.values())


@pytest.mark.parametrize("size", [50, 1000])
def test_what_stands_at_a_place_is_uniform_and_independent_of_its_neighbour(size: int) -> None:
    num_seeds, places = 3000, np.array([0, 1, size // 2, size - 1])
    drawn = np.array([permute(places, size, [3, seed]) for seed in range(num_seeds)])
    for column in drawn.T:
        counts = np.bincount(column * 10 // size, minlength=10)
        chi_square = ((counts - num_seeds / 10) ** 2 / (num_seeds / 10)).sum()
        assert chi_square < 30  # of 9 degrees of freedom: 1 of 2000 is above
    correlations = np.corrcoef(drawn.T)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 0.08


def test_an_order_is_no_ramp() -> None:
    drawn = permute(np.arange(100_000), 100_000, [9])
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.015
    assert abs(np.corrcoef(np.arange(100_000), drawn)[0, 1]) < 0.015
    other = permute(np.arange(100_000), 100_000, [10])
    assert abs(np.corrcoef(other, drawn)[0, 1]) < 0.015


def test_a_billion_samples_need_no_list() -> None:
    drawn = permute(np.arange(10**9 - 64, 10**9), 10**9, [1])
    assert len(set(drawn.tolist())) == 64
    assert drawn.min() >= 0
    assert 10**8 < drawn.max() < 10**9
