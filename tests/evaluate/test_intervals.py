"""Bootstrap intervals hold the truth as often as they say, and depend on the seed only."""

import numpy as np
import pytest

from vatt.evaluate import measures
from vatt.evaluate.measures import bootstrap, mean_of, median_of


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


def test_the_same_seed_gives_the_same_interval_in_parts_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(3).normal(size=30)
    videos = name(np.arange(30) // 2)
    first = bootstrap(videos, mean_of(values))
    assert bootstrap(videos, mean_of(values)) == first
    assert bootstrap(videos, mean_of(values), seed=1) != first
    monkeypatch.setattr(measures, "MAX_WEIGHTS", 1000)
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
