"""Bootstrap intervals: how far a number may be off because the test clips are few."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

NUM_RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
MAX_WEIGHTS = 4_000_000
"""Drawn at once, to bound memory."""

Weights = Int[np.ndarray, "R N"]
"""How often each of N clips counts in each of R resamples."""
Resampled = Float[np.ndarray, " R"]
"""A number for each resample."""
Statistic = Callable[[Weights], Resampled]
Interval = list[float]
"""The lower and the upper end of an interval that covers 95 %."""


def bootstrap(videos: Sequence[str], statistic: Statistic, seed: int = 0) -> Interval | None:
    """Return the percentile interval of a statistic of clips; `videos` names the video of each.

    Whole videos are drawn with replacement, since clips of one video resemble each other. Resamples
    in which the statistic is NaN do not count. None where there are fewer than two videos, which
    tell nothing of how videos differ. The same seed gives the same interval.
    """
    names, numbers = np.unique(np.asarray(videos, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:
        return None
    values = np.concatenate([statistic(weights) for weights in _draw(len(names), numbers, seed)])
    if np.isnan(values).all():
        return None
    return [float(end) for end in np.nanpercentile(values, PERCENTILES)]


def mean_of(values: Float[np.ndarray, " N"]) -> Statistic:
    """Return the statistic that is the mean of the values of the clips; NaN without any."""

    def find_mean(weights: Weights) -> Float[np.ndarray, " R"]:
        totals = weights.sum(axis=1)
        return np.where(totals > 0, (weights @ values) / np.maximum(totals, 1), np.nan)

    return find_mean


def median_of(values: Float[np.ndarray, " N"]) -> Statistic:
    """Return the statistic that is the median of the values, that of two middle ones their mean."""
    order = np.argsort(values, kind="stable")

    def find_median(weights: Weights) -> Float[np.ndarray, " R"]:
        ends = weights[:, order].cumsum(axis=1)
        total = ends[:, -1:]
        middles = [(ends <= place).sum(axis=1) for place in ((total - 1) // 2, total // 2)]
        median: Float[np.ndarray, " R"] = values[order][np.stack(middles)].mean(axis=0)
        return median

    return find_median


def _draw(num_videos: int, numbers: Shaped[np.ndarray, " N"], seed: int) -> Iterator[Weights]:
    generator = np.random.default_rng(seed)
    chances = np.full(num_videos, 1 / num_videos)
    rows = max(1, MAX_WEIGHTS // len(numbers))
    for first in range(0, NUM_RESAMPLES, rows):
        size = min(rows, NUM_RESAMPLES - first)
        yield generator.multinomial(num_videos, chances, size=size)[:, numbers]
