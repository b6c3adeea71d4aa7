"""The order of training, and the permutations that it is made of."""

import dataclasses
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from vatt.core.errors import StageError
from vatt.loading.order import Share, TrainingOrder, draw_samples, permute, weigh

SIZES = {"audioset": 7, "howto100m": 40}


@pytest.mark.parametrize(("num_samples", "batch_size"), [(7, 3), (10, 5), (3, 8), (1000, 64)])
def test_every_sample_comes_once_in_an_epoch(num_samples: int, batch_size: int) -> None:
    order = TrainingOrder(seed=1, batch_size=batch_size, start_step=0, num_steps=40)
    drawn = list(chain.from_iterable(order.batches([Share(0, num_samples)])))
    assert len(drawn) == 40 * batch_size
    epochs = [epoch for epoch, _ in drawn]
    assert epochs == sorted(epochs)
    for epoch in range(len(drawn) // num_samples):
        samples = Counter(sample for number, sample in drawn if number == epoch)
        assert samples == Counter(range(num_samples))


def test_epochs_are_shuffled_differently() -> None:
    order = TrainingOrder(seed=1, batch_size=200, start_step=0, num_steps=1)
    [[*drawn]] = order.batches([Share(0, 100)])
    first, second = ([sample for number, sample in drawn if number == epoch] for epoch in (0, 1))
    assert first != second
    assert first != sorted(first)
    [[*other]] = dataclasses.replace(order, seed=2).batches([Share(0, 100)])
    assert other != drawn


@pytest.mark.parametrize("weights", [None, {"audioset": 1, "howto100m": 1}])
def test_the_batch_of_a_step_is_the_same_on_any_ranks(weights: dict[str, float] | None) -> None:
    shares = weigh(SIZES, weights)
    order = TrainingOrder(seed=4, batch_size=12, start_step=0, num_steps=20)
    whole = list(order.batches(shares))
    for world_size in (2, 3, 4):
        resumed = dataclasses.replace(order, start_step=7, world_size=world_size)
        ranks = [
            list(dataclasses.replace(resumed, rank=rank).batches(shares))
            for rank in range(world_size)
        ]
        assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == whole[7:]


@pytest.mark.parametrize(
    ("weights", "block"),
    [
        ({"audioset": 1.0, "howto100m": 1.0}, [1, 1]),
        ({"audioset": 0.3, "howto100m": 0.7}, [3, 7]),
        ({"audioset": 0.125, "howto100m": 2.5}, [1, 20]),
        ({"audioset": 40, "howto100m": 30}, [4, 3]),
    ],
)
def test_sources_are_drawn_in_exact_proportion_each_in_its_own_epochs(
    weights: dict[str, float], block: list[int]
) -> None:
    shares = weigh(SIZES, weights)
    assert [share.weight for share in shares] == block
    num_draws = 280 * sum(block)
    epochs, samples = draw_samples(6, shares, np.arange(num_draws))
    is_first = samples < 7
    for number, mine in enumerate((is_first, ~is_first)):
        blocks = mine.reshape(-1, sum(block)).sum(1)
        assert (blocks == block[number]).all()
        # Spread evenly: no part of the row is more than two draws off.
        shortfall = np.cumsum(mine) - np.arange(1, num_draws + 1) * block[number] / sum(block)
        assert np.abs(shortfall).max() < 2
        size = [7, 40][number]
        pairs = Counter(zip(epochs[mine].tolist(), samples[mine].tolist(), strict=True))
        assert set(pairs.values()) == {1}
        assert len(pairs) == 280 * block[number]
        whole_epochs = 280 * block[number] // size
        assert all(
            sum((epoch, sample) in pairs for sample in range(47)) == size
            for epoch in range(whole_epochs)
        )


def test_clips_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ValueError, match="6 clips cannot be shared by 4 ranks"):
        TrainingOrder(seed=3, batch_size=6, start_step=0, num_steps=5, world_size=4)


def test_weights_with_many_digits_need_no_list() -> None:
    shares = weigh({"a": 10**7, "b": 10**5}, {"a": 0.123457, "b": 0.876543})
    _, samples = draw_samples(0, shares, np.arange(10**9, 10**9 + 100_000))
    assert (samples < 10**7).mean() == pytest.approx(0.123457, abs=1e-4)


def test_a_source_of_weight_0_is_left_out() -> None:
    assert weigh(SIZES, {"audioset": 0, "howto100m": 2}) == [Share(7, 40, 1)]
    assert weigh(SIZES, {"audioset": 1, "howto100m": 0}) == [Share(0, 7, 1)]
    assert weigh(SIZES, None) == [Share(0, 47)]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"audioset": 1.0}, r"needs a weight for each source .*\(audioset, howto100m\)"),
        ({"audioset": 1.0, "howto100m": 1.0, "typo": 1.0}, "and for no other"),
        ({"audioset": 0.0, "howto100m": 0.0}, "are not all 0"),
        ({"audioset": 0.12345678901, "howto100m": 1.0}, "have few digits"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(StageError, match=f"pretrain.source_weights = .*{message}"):
        weigh(SIZES, weights)


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
