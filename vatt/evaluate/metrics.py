"""Every metric: its computation, its chance, its bootstrap interval and its title.

Whoever adds one computes it here and names it in TITLES. `retrieval`, `linear_evaluation` and
`finetuned` measure with it, `comparison` puts the numbers into metrics/evaluate.json, and `results`
makes the tables of the terminal, the report and the card from these.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

TITLES = {
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "median_rank": "median rank",
    "accuracy": "accuracy",
    "top5": "top-5",
    "map": "mAP",
    "auc": "AUC",
    "d_prime": "d-prime, mean of classes",
    "d_prime_of_mean_auc": "d-prime of mean AUC",
}
RECALL_AT = {"r1": 1, "r5": 5, "r10": 10}
RETRIEVAL = (*RECALL_AT, "median_rank")
NUM_RESAMPLES, PERCENTILES = 1000, (2.5, 97.5)
MAX_WEIGHTS = 4_000_000
"""The most weights of clips that are drawn at once, to bound memory."""

Counts = Int[np.ndarray, "R N"]
"""How often each of N clips counts in each of R resamples."""
Resampled = Float[np.ndarray, " R"]
"""A number for each resample."""
Statistic = Callable[[Counts], Resampled]
Interval = list[float]
"""The lower and the upper end of an interval that covers 95 %."""
Retrieval = dict[str, float | None]
"""Recalls in [0, 1] and the median rank, 1 being best, by RETRIEVAL; None without any pair."""


def format_value(metric: str, value: float | None) -> str:
    """Return a number as the metric is written: shares in per cent; empty where there is none."""
    if value is None:
        return ""
    if metric == "median_rank":
        return f"{value:.1f}"
    return f"{value:.3f}" if metric.startswith("d_prime") else f"{100 * value:.1f}%"


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
    """Return the statistic that is the median of the values; of two middle ones it is the mean."""
    order = np.argsort(values, kind="stable")

    def find_median(weights: Counts) -> Float[np.ndarray, " R"]:
        ends = weights[:, order].cumsum(axis=1)
        total = ends[:, -1:]
        middles = [(ends <= place).sum(axis=1) for place in ((total - 1) // 2, total // 2)]
        return np.asarray(values[order][np.stack(middles)].mean(axis=0))

    return find_median


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
    return np.asarray(((k - ranks.better) / (ranks.tied + 1)).clip(0, 1))


def find_mean_ranks(ranks: Ranks) -> Float[np.ndarray, "Q"]:
    """Return the expected rank of each query's right item, 1 being best."""
    return np.asarray(ranks.better + 1 + ranks.tied / 2)


def measure_retrieval(ranks: Ranks) -> Retrieval:
    """Return what is expected when ties are broken at random: who cannot tell is at chance."""
    if len(ranks.better) == 0:
        return dict.fromkeys(RETRIEVAL)
    recalls = {name: float(find_within(k, ranks).mean()) for name, k in RECALL_AT.items()}
    return {**recalls, "median_rank": float(np.median(find_mean_ranks(ranks)))}


def estimate_intervals(ranks: Ranks, videos: Sequence[str]) -> dict[str, Interval | None]:
    """Return the intervals of retrieval over other queries of the same kind for the same items.

    `videos` names the video of each query.
    """
    if len(ranks.better) == 0:
        return dict.fromkeys(RETRIEVAL)
    found = {name: mean_of(find_within(k, ranks)) for name, k in RECALL_AT.items()}
    found["median_rank"] = median_of(find_mean_ranks(ranks))
    return {name: bootstrap(videos, statistic) for name, statistic in found.items()}


def measure_chance(num_items: int) -> Retrieval:
    """Return what a random order gives: recall min(k / N, 1), median rank (N + 1) / 2."""
    if num_items == 0:
        return dict.fromkeys(RETRIEVAL)
    recalls = {name: min(k / num_items, 1.0) for name, k in RECALL_AT.items()}
    return {**recalls, "median_rank": (num_items + 1) / 2}


def mark_classes(
    labels: Sequence[Sequence[str]], classes: Sequence[str]
) -> Bool[np.ndarray, "N C"]:
    """Return which of the classes each clip has; labels that are none of them are left out."""
    numbers = {name: number for number, name in enumerate(classes)}
    targets = np.zeros((len(labels), len(classes)), dtype=bool)
    for clip, names in enumerate(labels):
        targets[clip, [numbers[name] for name in names if name in numbers]] = True
    return targets


def add_unknown(
    scores: Float[np.ndarray, "N C"], classes: Sequence[str], everything: Sequence[str]
) -> Float[np.ndarray, "N A"]:
    """Return scores of all classes: those that were not learnt get the lowest, all clips alike."""
    columns = dict(zip(classes, scores.T, strict=True))
    lowest = np.full(len(scores), scores.min())
    return np.stack([columns.get(name, lowest) for name in everything], axis=1)


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
    return np.asarray((counts > 0) & (counts < len(targets)))


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
    metric: str, scores: Float[np.ndarray, "N C"], targets: Bool[np.ndarray, "N C"]
) -> Statistic:
    """Return the statistic for `bootstrap` that is `map`, `auc` or `d_prime`.

    With unit weights it is that of `measure_ranking`. In each resample it is the mean over those
    classes that some of its clips have and, but for mAP, some have not.
    """
    measure_class = _average_precision if metric == "map" else _area
    classes = np.flatnonzero(find_measurable(targets))

    def find_mean(weights: Counts) -> Resampled:
        total, counts = np.zeros(len(weights)), np.zeros(len(weights))
        for number in classes:
            target = targets[:, number]
            value = measure_class(scores[:, number], target, weights)
            if metric == "d_prime":
                half_pair = 0.5 / np.maximum((weights @ target) * (weights @ ~target), 1)
                value = compute_d_prime(value.clip(half_pair, 1 - half_pair))
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


def _count_by_score(
    scores: Float[np.ndarray, " N"], target: Bool[np.ndarray, " N"], weights: Counts
) -> tuple[Int[np.ndarray, "R S"], Int[np.ndarray, "R S"]]:
    """Return how many clips with and without a class have at most each of S different scores."""
    order = np.argsort(scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    weights, target = weights[:, order], target[order]
    found, passed = ((weights * row).cumsum(axis=1)[:, ends] for row in (target, ~target))
    return found, passed
