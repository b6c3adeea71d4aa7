"""How good scores of classes are: top-k accuracy, mAP, AUC and d-prime (VATT sections 4.2.1, 4.2.2)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from vatt.evaluation.measures.intervals import Statistic, Weights


class Ranking(NamedTuple):
    """How well each class ranks the clips, averaged over classes; None where no class can be measured.

    map: of the average precisions. auc: of the areas under the ROC curves. d_prime: of the d-primes
    of the classes, as in the paper. d_prime_of_mean_auc: that of `auc`, as others define it; None
    where it is infinite. num_left_out: classes that every clip has or none, which tell nothing.
    """

    map: float | None
    auc: float | None
    d_prime: float | None
    d_prime_of_mean_auc: float | None
    num_left_out: int


def count_hits(
    scores: Float[np.ndarray, "N C"], right: Int[np.ndarray, " N"], k: int
) -> Float[np.ndarray, " N"]:
    """Return for each clip the chance that its right class is among the k with the highest scores.

    It is 0 or 1 unless scores are equal: these may stand in any order.
    """
    own = np.take_along_axis(scores, right[:, None], axis=1)
    better = (scores > own).sum(axis=1)
    tied = (scores == own).sum(axis=1) - 1
    hits: Float[np.ndarray, " N"] = ((k - better) / (tied + 1)).clip(0, 1)
    return hits


def measure_ranking(scores: Float[np.ndarray, "N C"], targets: Bool[np.ndarray, "N C"]) -> Ranking:
    """Measure scores of any scale; `targets` says which classes each clip has, any number of them."""
    kept = find_measurable(targets)
    num_left_out = int((~kept).sum())
    if not kept.any():
        return Ranking(None, None, None, None, num_left_out)
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
        num_left_out=num_left_out,
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
    """Return the mAP that a random order of the N clips has on average; NaN without measurable classes.

    Of a class that p clips have, place k holds one with probability p / N, and then of the k - 1
    clips before it (k - 1)(p - 1) / (N - 1) are expected to have it, too. That is more than the share
    p / N: of a rare class, much more.
    """
    num_clips = len(targets)
    counts = targets.sum(axis=0)[find_measurable(targets)]
    if not len(counts):
        return float("nan")
    harmonic = (1 / np.arange(1, num_clips + 1)).sum()
    others = (counts - 1) / (num_clips - 1)
    return float(((harmonic + others * (num_clips - harmonic)) / num_clips).mean())


def map_of(scores: Float[np.ndarray, "N C"], targets: Bool[np.ndarray, "N C"]) -> Statistic:
    """Return the statistic that is mAP, for `bootstrap`: with unit weights that of `measure_ranking`.

    Of each resample those classes are averaged that some of its clips have.
    """
    classes = np.flatnonzero(find_measurable(targets))

    def measure(weights: Weights) -> Float[np.ndarray, " R"]:
        total, counts = np.zeros(len(weights)), np.zeros(len(weights))
        for number in classes:
            precision = _average_precision(scores[:, number], targets[:, number], weights)
            total += np.nan_to_num(precision)
            counts += ~np.isnan(precision)
        return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)

    return measure


def _average_precision(
    scores: Float[np.ndarray, " N"], target: Bool[np.ndarray, " N"], weights: Weights
) -> Float[np.ndarray, " R"]:
    """Return the average precision of a class in each resample, NaN where no clip has it.

    Clips of equal scores are found together.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    weights = weights[:, order]
    found = (weights * target[order]).cumsum(axis=1)[:, ends]
    precision = found / np.maximum(weights.cumsum(axis=1)[:, ends], 1)
    gains = np.diff(found, axis=1, prepend=0)
    num_positive = found[:, -1]
    average: Float[np.ndarray, " R"] = (gains * precision).sum(axis=1)
    return np.where(num_positive > 0, average / np.maximum(num_positive, 1), np.nan)
