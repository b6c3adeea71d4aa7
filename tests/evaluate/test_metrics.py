"""Metrics equal slow loops and scikit-learn; intervals hold the truth as often as they say."""

import math
from itertools import pairwise, permutations
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vatt.evaluate import metrics
from vatt.evaluate.metrics import (
    bootstrap,
    compute_d_prime,
    expect_map,
    find_measurable,
    find_within,
    mean_of,
    measure_ranking,
    median_of,
    rank_rows,
    statistic_of,
)


def test_a_random_order_has_the_mean_precision_of_all_orders() -> None:
    targets = np.array([[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0]]) > 0
    orders = [np.array(order, dtype=float) for order in permutations(range(5))]
    means = [
        np.mean([find_precision_slowly(order, target) for order in orders])
        for target in targets.T[:2]
    ]
    assert expect_map(targets) == pytest.approx(np.mean(means))  # of c and d, all clips or none
    rare = np.arange(20)[:, None] == 0
    assert expect_map(rare) == pytest.approx(sum(1 / place for place in range(1, 21)) / 20)
    assert math.isnan(expect_map(targets[:, 2:]))


def find_precision_slowly(scores: np.ndarray, target: np.ndarray) -> float:
    """Walk down the distinct scores: recall gained at each of them, times the precision there."""
    total, found_before = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [index for index, score in enumerate(scores) if score >= threshold]
        found = sum(int(target[index]) for index in chosen)
        total += (found - found_before) / target.sum() * found / len(chosen)
        found_before = found
    return total


find_normal_quantile = NormalDist().inv_cdf


def find_area_slowly(scores: np.ndarray, target: np.ndarray) -> float:
    """Compare every clip that has the class with every one that has not; a tie is half a win."""
    wins = [
        1.0 if own > other else 0.5 if own == other else 0.0
        for own in scores[target]
        for other in scores[~target]
    ]
    return sum(wins) / len(wins)


def draw(seed: int, num_clips: int, num_classes: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties; classes that all clips, or none, have among others."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, levels, (num_clips, num_classes)) / 7
    rates = generator.choice([0.0, 0.2, 0.5, 0.9, 1.0], num_classes)
    return scores, generator.random((num_clips, num_classes)) < rates


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_clips=st.integers(1, 30),
    num_classes=st.integers(1, 6),
    levels=st.sampled_from([1, 2, 4, 1000]),
)
def test_ranking_equals_slow_loops(
    seed: int, num_clips: int, num_classes: int, levels: int
) -> None:
    scores, targets = draw(seed, num_clips, num_classes, levels)
    kept = [number for number in range(num_classes) if 0 < targets[:, number].sum() < num_clips]
    assert np.flatnonzero(find_measurable(targets)).tolist() == kept
    measured = measure_ranking(scores, targets)
    if not kept:
        assert measured == (None, None, None, None)
        return
    columns = [(scores[:, number], targets[:, number]) for number in kept]
    precisions = [find_precision_slowly(*column) for column in columns]
    areas = [find_area_slowly(*column) for column in columns]
    assert measured.map == pytest.approx(np.mean(precisions), abs=1e-12)
    assert measured.auc == pytest.approx(np.mean(areas), abs=1e-12)
    units = np.ones((1, num_clips), dtype=np.int64)
    for name, tolerance in (("map", 1e-12), ("auc", 1e-12), ("d_prime", 1e-9)):
        resampled = statistic_of(name, scores, targets)(units)
        assert resampled == pytest.approx(getattr(measured, name), abs=tolerance)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), num_clips=st.integers(2, 20), levels=st.sampled_from([2, 50]))
def test_weights_count_as_copies_of_clips(seed: int, num_clips: int, levels: int) -> None:
    scores, targets = draw(seed, num_clips, 3, levels)
    weights = np.random.default_rng(seed).integers(0, 3, (4, num_clips))
    kept = find_measurable(targets)
    precision, area, d_prime = (
        statistic_of(name, scores, targets)(weights) for name in ("map", "auc", "d_prime")
    )
    for number, row in enumerate(weights):
        copies = np.repeat(np.arange(num_clips), row)
        own_scores, own_targets = scores[copies][:, kept], targets[copies][:, kept]
        values = [
            find_precision_slowly(own_scores[:, column], own_targets[:, column])
            for column in np.flatnonzero(own_targets.any(axis=0))
        ]
        assert precision[number] == pytest.approx(
            np.mean(values or [np.nan]), abs=1e-12, nan_ok=True
        )
        copied = measure_ranking(own_scores, own_targets)
        if copied.auc is None:
            assert np.isnan(area[number])
            assert np.isnan(d_prime[number])
        else:
            assert area[number] == pytest.approx(copied.auc, abs=1e-12)
            assert d_prime[number] == pytest.approx(copied.d_prime, abs=1e-9)


def test_d_prime_by_both_definitions() -> None:
    assert compute_d_prime(0.971) == pytest.approx(2.681, abs=5e-4)  # of the paper's mean AUC
    assert compute_d_prime(0.5) == pytest.approx(0, abs=1e-12)
    scores, targets = draw(5, 200, 4, 1000)
    targets[:, :2] = [[True, False], [False, True]] * 100
    scores[:, 1] += targets[:, 1] * 60
    measured = measure_ranking(scores, targets)
    numbers = np.flatnonzero(find_measurable(targets))
    areas = [find_area_slowly(scores[:, number], targets[:, number]) for number in numbers]
    of_classes = [2**0.5 * find_normal_quantile(area) for area in areas]
    assert len(areas) > 1
    assert measured.d_prime == pytest.approx(np.mean(of_classes), abs=1e-9)
    of_mean = 2**0.5 * find_normal_quantile(float(np.mean(areas)))
    assert measured.d_prime_of_mean_auc == pytest.approx(of_mean, abs=1e-9)
    assert abs(np.mean(of_classes) - of_mean) > 0.01
    # A class without a mistake has a large d-prime, not an infinite one.
    targets = np.array([[True], [True], [False], [False], [False]])
    measured = measure_ranking(targets.astype(float), targets)
    assert (measured.map, measured.auc, measured.d_prime_of_mean_auc) == (1, 1, None)
    assert measured.d_prime == pytest.approx(2**0.5 * find_normal_quantile(1 - 0.5 / 6), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), num_classes=st.integers(1, 5), k=st.integers(1, 6))
def test_hits_are_the_average_over_all_orders_of_ties(seed: int, num_classes: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 3, (4, num_classes)).astype(float)
    right = generator.integers(0, num_classes, 4)
    for row, number, hit in zip(
        scores, right, find_within(k, rank_rows(scores, right)), strict=True
    ):
        orders = [
            order
            for order in permutations(range(num_classes))
            if all(row[a] >= row[b] for a, b in pairwise(order))
        ]
        assert hit == pytest.approx(np.mean([number in order[:k] for order in orders]))


def name(numbers: np.ndarray) -> list[str]:
    return [f"{number}.mp4" for number in numbers]


def test_an_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(name(np.arange(400)), mean_of(values)) or (0, 0)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 5)


def test_it_holds_the_truth_95_times_of_100() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        hits = (generator.random(80) < 0.6).astype(float)
        low, high = bootstrap(name(np.arange(80)), mean_of(hits)) or (0, 0)
        held += low <= 0.6 <= high
    assert 0.90 < held / 300 < 0.985  # the draws are seeded: the same every time


def test_clips_of_one_video_are_drawn_together() -> None:
    """Ten copies of each clip tell no more than one of each."""
    values = np.random.default_rng(2).normal(size=50)
    once = bootstrap(name(np.arange(50)), mean_of(values))
    copied = bootstrap(name(np.arange(50).repeat(10)), mean_of(values.repeat(10)))
    assert once == pytest.approx(copied, abs=1e-12)
    alone = bootstrap(name(np.arange(500)), mean_of(values.repeat(10))) or (0, 0)
    assert alone[1] - alone[0] < ((once or [0, 0])[1] - (once or [0, 0])[0]) / 2


def test_the_same_seed_gives_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=30)
    videos = name(np.arange(30) // 2)
    first = bootstrap(videos, mean_of(values))
    assert bootstrap(videos, mean_of(values)) == first
    assert bootstrap(videos, mean_of(values), seed=1) != first
    monkeypatch.setattr(metrics, "MAX_WEIGHTS", 1000)
    assert bootstrap(videos, mean_of(values)) == pytest.approx(first, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_the_median_is_that_of_copies(size: int) -> None:
    generator = np.random.default_rng(size)
    values = generator.integers(0, 5, size) / 2
    weights = generator.integers(0, 3, (20, size))
    weights[:, 0] += 1
    expected = [np.median(np.repeat(values, row)) for row in weights]
    assert median_of(values)(weights) == pytest.approx(expected)


def test_one_video_tells_nothing_of_others() -> None:
    assert bootstrap([], mean_of(np.zeros(0))) is None
    assert bootstrap(["a", "a"], mean_of(np.array([0.0, 1.0]))) is None
    assert bootstrap(["a", "b"], lambda weights: np.full(len(weights), np.nan)) is None
