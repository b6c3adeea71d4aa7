"""How good scores of classes are: top-k accuracy, mAP, AUC and d-prime (VATT 4.2.1 and 4.2.2).

Beside them stand bootstrap intervals: how far a number may be off because the test clips are few.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

NUM_RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
MAX_WEIGHTS = 4_000_000
"""The most weights of clips that are drawn at once, to bound memory."""

Counts = Int[np.ndarray, "R N"]
"""How often each of N clips counts in each of R resamples."""
Resampled = Float[np.ndarray, " R"]
"""A number for each resample."""
Statistic = Callable[[Counts], Resampled]
Interval = list[float]
"""The lower and the upper end of an interval that covers 95 %."""


def bootstrap(videos: Sequence[str], statistic: Statistic, seed: int = 0) -> Interval | None:
    """Return the percentile interval of a statistic of clips; `videos` names each one's video.

    Whole videos are drawn with replacement, since clips of one video resemble each other. Resamples
    in which the statistic is NaN do not count. None where there are fewer than two videos, which
    tell nothing of how videos differ. The same seed gives the same interval.
    """
    names, numbers = np.unique(np.asarray(videos, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:
        return None
    generator = np.random.default_rng(seed)
    chances = np.full(len(names), 1 / len(names))
    rows = max(1, MAX_WEIGHTS // len(numbers))
    sizes = [min(rows, NUM_RESAMPLES - first) for first in range(0, NUM_RESAMPLES, rows)]
    draws = (generator.multinomial(len(names), chances, size=size) for size in sizes)
    values = np.concatenate([statistic(draw[:, numbers]) for draw in draws])
    if np.isnan(values).all():
        return None
    return [float(end) for end in np.nanpercentile(values, PERCENTILES)]


def mean_of(values: Float[np.ndarray, " N"]) -> Statistic:
    """Return the statistic that is the mean of the values of the clips; NaN without any."""

    def find_mean(weights: Counts) -> Float[np.ndarray, " R"]:
        totals = weights.sum(axis=1)
        return np.where(totals > 0, (weights @ values) / np.maximum(totals, 1), np.nan)

    return find_mean


def median_of(values: Float[np.ndarray, " N"]) -> Statistic:
    """Return the statistic that is the median of the values, that of two middle ones their mean."""
    order = np.argsort(values, kind="stable")

    def find_median(weights: Counts) -> Float[np.ndarray, " R"]:
        ends = weights[:, order].cumsum(axis=1)
        total = ends[:, -1:]
        middles = [(ends <= place).sum(axis=1) for place in ((total - 1) // 2, total // 2)]
        median: Float[np.ndarray, " R"] = values[order][np.stack(middles)].mean(axis=0)
        return median

    return find_median


class Score(NamedTuple):
    """A number and its interval over test videos."""

    value: float
    interval: Interval | None = None


class Ranking(NamedTuple):
    """How well the classes rank the clips, on average; None where no class can be measured."""

    map: float | None = None
    """The mean of the average precisions."""
    auc: float | None = None
    """The mean of the areas under the ROC curves."""
    d_prime: float | None = None
    """The mean of the d-primes of the classes, as in the paper."""
    d_prime_of_mean_auc: float | None = None
    """The d-prime of `auc`, as others define it; None where it is infinite."""


class Ranks(NamedTuple):
    """Where the right one of G items stands among all of them, for each of Q queries."""

    better: Int[np.ndarray, "Q"]
    """How many wrong items have a higher score."""
    tied: Int[np.ndarray, "Q"]
    """How many wrong items have the same score."""
    margin: Float[np.ndarray, "Q"]
    """By how much the score of the right item exceeds that of the best wrong one."""


def rank_rows(scores: Float[np.ndarray, "Q G"], right: Int[np.ndarray, "Q"]) -> Ranks:
    """Rank the item `right` of each row of scores, be it a clip or a class."""
    own = np.take_along_axis(scores, right[:, None], axis=1)
    wrong = scores.copy()
    np.put_along_axis(wrong, right[:, None], -np.inf, axis=1)
    return Ranks(
        better=(scores > own).sum(axis=1),
        tied=(scores == own).sum(axis=1) - 1,
        margin=own[:, 0] - wrong.max(axis=1, initial=-np.inf),
    )


def find_within(k: float, ranks: Ranks) -> Float[np.ndarray, "Q"]:
    """Return for each query the chance that its right item is among the first `k`.

    The right item and its T ties take the T + 1 places after the better ones in any order, so it
    is among the first k with probability (k - better) / (T + 1), kept in [0, 1].
    """
    found: Float[np.ndarray, "Q"] = ((k - ranks.better) / (ranks.tied + 1)).clip(0, 1)
    return found


def find_mean_ranks(ranks: Ranks) -> Float[np.ndarray, "Q"]:
    """Return the expected rank of each query's right item, 1 being best."""
    mean: Float[np.ndarray, "Q"] = ranks.better + 1 + ranks.tied / 2
    return mean


def measure_ranking(scores: Float[np.ndarray, "N C"], targets: Bool[np.ndarray, "N C"]) -> Ranking:
    """Measure scores of any scale; `targets` says which classes each clip has, any number of them.

    Classes that every clip has, or none, tell nothing: they are left out.
    """
    kept = find_measurable(targets)
    if not kept.any():
        return Ranking()
    scores, targets = scores[:, kept], targets[:, kept]
    areas = np.atleast_1d(roc_auc_score(targets, scores, average=None))
    auc = float(areas.mean())
    # The area of a class that is ranked without a mistake is taken half a pair short of 1: its
    # d-prime would be infinite, and so would the mean.
    num_positive = targets.sum(axis=0)
    half_pair = 0.5 / (num_positive * (len(targets) - num_positive))
    of_mean = compute_d_prime(auc)
    return Ranking(
        map=float(average_precision_score(targets, scores, average="macro")),
        auc=auc,
        d_prime=float(np.mean(compute_d_prime(areas.clip(half_pair, 1 - half_pair)))),
        d_prime_of_mean_auc=float(of_mean) if np.isfinite(of_mean) else None,
    )


def compute_d_prime(auc: float | Float[np.ndarray, " C"]) -> Float[np.ndarray, "..."]:
    """Return d-prime of areas under ROC curves; infinite for 0 and 1."""
    d_prime: Float[np.ndarray, "..."] = np.sqrt(2) * norm.ppf(auc)
    return d_prime


def find_measurable(targets: Bool[np.ndarray, "N C"]) -> Bool[np.ndarray, " C"]:
    """Return which classes some clips have and some have not."""
    counts = targets.sum(axis=0)
    measurable: Bool[np.ndarray, " C"] = (counts > 0) & (counts < len(targets))
    return measurable


def expect_map(targets: Bool[np.ndarray, "N C"]) -> float:
    """Return the mAP of a random order of N clips on average; NaN without measurable classes.

    Where p clips have a class, place k holds one with probability p / N, and then of the k - 1
    clips before it (k - 1)(p - 1) / (N - 1) are expected to have it, too. That is more than the
    share p / N: much more where a class is rare.
    """
    num_clips = len(targets)
    counts = targets.sum(axis=0)[find_measurable(targets)]
    if not len(counts):
        return float("nan")
    harmonic = (1 / np.arange(1, num_clips + 1)).sum()
    others = (counts - 1) / (num_clips - 1)
    return float(((harmonic + others * (num_clips - harmonic)) / num_clips).mean())


def statistic_of(
    measure: str, scores: Float[np.ndarray, "N C"], targets: Bool[np.ndarray, "N C"]
) -> Statistic:
    """Return the statistic for `bootstrap` that is `map`, `auc` or `d_prime`.

    With unit weights it is that of `measure_ranking`. In each resample it is the mean over those
    classes that some of its clips have and, but for mAP, some have not.
    """
    measure_class = {"map": _average_precision, "auc": _area, "d_prime": _d_prime}[measure]
    classes = np.flatnonzero(find_measurable(targets))

    def find_mean(weights: Counts) -> Resampled:
        total, counts = np.zeros(len(weights)), np.zeros(len(weights))
        for number in classes:
            value = measure_class(scores[:, number], targets[:, number], weights)
            total += np.nan_to_num(value)
            counts += ~np.isnan(value)
        return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)

    return find_mean


def _average_precision(
    scores: Float[np.ndarray, " N"], target: Bool[np.ndarray, " N"], weights: Counts
) -> Resampled:
    """Return the average precision of a class in each resample, NaN where no clip has it.

    Clips of equal scores are found together.
    """
    found, passed = _count_by_score(-scores, target, weights)
    precision = found / np.maximum(found + passed, 1)
    gains = np.diff(found, axis=1, prepend=0)
    num_positive = found[:, -1]
    average: Resampled = (gains * precision).sum(axis=1)
    return np.where(num_positive > 0, average / np.maximum(num_positive, 1), np.nan)


def _area(
    scores: Float[np.ndarray, " N"], target: Bool[np.ndarray, " N"], weights: Counts
) -> Resampled:
    """Return the area under the ROC curve of a class, NaN where all clips have it or none.

    It is the share of the pairs of a clip that has the class and one that has not which stand in
    the right order; a pair of equal scores counts half.
    """
    found, passed = _count_by_score(scores, target, weights)
    gains, equal = (np.diff(counts, axis=1, prepend=0) for counts in (found, passed))
    num_pairs = found[:, -1] * passed[:, -1]
    won: Resampled = (gains * (passed - equal / 2)).sum(axis=1)
    return np.where(num_pairs > 0, won / np.maximum(num_pairs, 1), np.nan)


def _d_prime(
    scores: Float[np.ndarray, " N"], target: Bool[np.ndarray, " N"], weights: Counts
) -> Resampled:
    half_pair = 0.5 / np.maximum((weights @ target) * (weights @ ~target), 1)
    return compute_d_prime(_area(scores, target, weights).clip(half_pair, 1 - half_pair))


def _count_by_score(
    scores: Float[np.ndarray, " N"], target: Bool[np.ndarray, " N"], weights: Counts
) -> tuple[Int[np.ndarray, "R S"], Int[np.ndarray, "R S"]]:
    """Return how many clips with and without a class have at most each of S different scores."""
    order = np.argsort(scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    weights, target = weights[:, order], target[order]
    found, passed = ((weights * row).cumsum(axis=1)[:, ends] for row in (target, ~target))
    return found, passed
