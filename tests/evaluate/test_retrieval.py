"""Retrieval equals slow loops, chance equals closed forms, ties are broken at random."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vatt.evaluate import retrieval
from vatt.evaluate.metrics import (
    RETRIEVAL,
    Ranks,
    Retrieval,
    estimate_intervals,
    measure_chance,
    measure_retrieval,
    rank_rows,
)
from vatt.evaluate.retrieval import SIMILARITY_DECIMALS, Average, average_windows, rank_items


def rank_pairs(similarities: np.ndarray) -> Ranks:
    """The right item of each query is the one of the same number."""
    return rank_rows(similarities.round(SIMILARITY_DECIMALS), np.arange(len(similarities)))


def compare_by_cosine(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    first, second = (
        average_windows(vectors[:, None], "embeddings") for vectors in (queries, items)
    )
    return np.asarray(first @ second.T)


def retrieve_slowly(similarities: np.ndarray) -> Retrieval:
    """Sort each query's items in every order that its ties allow, and average."""
    recalls = {1: 0.0, 5: 0.0, 10: 0.0}
    mean_ranks = []
    for query, row in enumerate(similarities):
        orders = [
            order
            for order in permutations(range(len(row)))
            if all(row[a] >= row[b] for a, b in pairwise(order))
        ]
        ranks = [order.index(query) + 1 for order in orders]
        mean_ranks.append(sum(ranks) / len(ranks))
        for k in recalls:
            recalls[k] += sum(rank <= k for rank in ranks) / len(ranks) / len(similarities)
    numbers = [*recalls.values(), float(np.median(mean_ranks))]
    return dict(zip(RETRIEVAL, numbers, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    num_pairs=st.integers(1, 6),
    levels=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_it_equals_the_average_over_all_orders(num_pairs: int, levels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    similarities = generator.integers(0, levels, (num_pairs, num_pairs)) / 10
    measured = measure_retrieval(rank_pairs(similarities))
    assert measured == pytest.approx(retrieve_slowly(similarities), abs=1e-12)


@pytest.mark.parametrize("num_pairs", [1, 2, 7, 10, 64])
def test_an_indifferent_network_is_exactly_at_chance(num_pairs: int) -> None:
    same = np.ones((num_pairs, 8), dtype=np.float32)
    measured = measure_retrieval(rank_pairs(compare_by_cosine(same, same)))
    assert measured == pytest.approx(measure_chance(num_pairs), abs=1e-12)


def test_aligned_pairs_are_all_found_and_opposed_ones_come_last() -> None:
    vectors = np.eye(12, dtype=np.float32)
    found = measure_retrieval(rank_pairs(compare_by_cosine(3 * vectors, vectors)))
    assert [*found.values()] == [1, 1, 1, 1]
    lost = measure_retrieval(rank_pairs(compare_by_cosine(-vectors, vectors)))
    assert [*lost.values()] == [0, 0, 0, 12]
    # A vector of zeros is similar to nothing.
    assert compare_by_cosine(np.zeros((1, 12)), vectors).tolist() == [[0] * 12]


def test_without_pairs_there_is_no_number() -> None:
    nothing = dict.fromkeys(RETRIEVAL)
    empty = rank_pairs(np.zeros((0, 0)))
    assert measure_retrieval(empty) == measure_chance(0) == nothing
    assert estimate_intervals(empty, []) == nothing


def test_windows_are_averaged_as_embeddings_or_as_cosines() -> None:
    generator = np.random.default_rng(4)
    queries, items = generator.normal(size=(5, 2, 8)), generator.normal(size=(6, 3, 8))

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))

    for query, first in enumerate(queries):
        for item, second in enumerate(items):
            of_means = cosine(first.mean(axis=0), second.mean(axis=0))
            mean_of = np.mean([cosine(one, other) for one in first for other in second])
            cases: dict[Average, object] = {"embeddings": of_means, "similarities": mean_of}
            for average, expected in cases.items():
                products = average_windows(queries, average) @ average_windows(items, average).T
                assert products[query, item] == pytest.approx(expected, abs=1e-12)


def test_several_queries_may_ask_for_one_item() -> None:
    items = np.eye(3)
    queries = np.array([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1.0], [0.5, 0.2, 0]])
    ranks = rank_items(queries, items, np.array([0, 0, 1, 1]))
    assert ranks.better.tolist() == [0, 0, 1, 1]
    assert ranks.tied.tolist() == [0, 0, 1, 0]
    assert ranks.margin == pytest.approx([1, 0.8, -1, -0.3])


def test_many_items_are_ranked_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(5)
    queries, items = generator.normal(size=(2, 23, 4))
    whole = rank_items(queries, items, np.arange(23))
    monkeypatch.setattr(retrieval, "MAX_SIMILARITIES", 60)
    parts = rank_items(queries, items, np.arange(23))
    for first, second in zip(whole, parts, strict=True):
        assert np.array_equal(first, second)


def test_intervals_hold_the_numbers() -> None:
    generator = np.random.default_rng(6)
    queries = generator.normal(size=(60, 8))
    ranks = rank_items(queries, queries + generator.normal(size=(60, 8)), np.arange(60))
    intervals = estimate_intervals(ranks, [str(number) for number in range(60)])
    for name, value in measure_retrieval(ranks).items():
        low, high = intervals[name] or (1, 0)
        assert value is not None
        assert low < value < high
