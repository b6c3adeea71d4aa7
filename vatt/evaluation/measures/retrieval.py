"""Zero-shot retrieval: recall at k and median rank (VATT section 4.3)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RECALL_AT = (1.0, 5.0, 10.0)
SIMILARITY_DECIMALS = (
    6  # finer differences are rounding noise of float32 networks, so they are ties
)


class Ranks(NamedTuple):
    """Where the right item of each query stands among all items.

    better: how many wrong items are more similar to the query. tied: how many wrong items are
    exactly as similar.
    """

    better: Int[np.ndarray, "Q"]
    tied: Int[np.ndarray, "Q"]


class Retrieval(NamedTuple):
    """Recall at 1, 5 and 10 in [0, 1] and the median rank, 1 being best; None without any pair."""

    r1: float | None
    r5: float | None
    r10: float | None
    median_rank: float | None


def compare_by_cosine(
    queries: Float[np.ndarray, "Q E"], items: Float[np.ndarray, "G E"]
) -> Float[np.ndarray, "Q G"]:
    """Return cosine similarities in [-1, 1]; a vector of zeros is similar to nothing (0)."""
    similarities: Float[np.ndarray, "Q G"] = normalise(queries) @ normalise(items).T
    return similarities


def normalise(vectors: Float[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
    """Return the vectors at length 1, in float64; a vector of zeros stays."""
    vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Float[np.ndarray, "N E"] = vectors / np.where(lengths == 0, 1, lengths)
    return scaled


def rank_pairs(similarities: Float[np.ndarray, "N N"]) -> Ranks:
    """Rank the right item of each query, the one of the same number: the diagonal."""
    rounded = similarities.round(SIMILARITY_DECIMALS)
    right = np.diagonal(rounded)[:, None]
    better = (rounded > right).sum(axis=1)
    return Ranks(better=better, tied=(rounded == right).sum(axis=1) - 1)


def measure_retrieval(ranks: Ranks) -> Retrieval:
    """Return what is expected when ties are broken at random: an indifferent network is at chance."""
    if len(ranks.better) == 0:
        return Retrieval(None, None, None, None)
    r1, r5, r10 = (recall_at(k, ranks) for k in RECALL_AT)
    return Retrieval(r1, r5, r10, float(np.median(ranks.better + 1 + ranks.tied / 2)))


def recall_at(k: float, ranks: Ranks) -> float:
    """Return the expected share of queries whose right item is among the first `k`.

    The right item and its T ties take the T + 1 places after the better ones in any order, so it
    is among the first k with probability (k - better) / (T + 1), kept in [0, 1].
    """
    return float(((k - ranks.better) / (ranks.tied + 1)).clip(0, 1).mean())


def measure_chance(num_pairs: int) -> Retrieval:
    """Return what a random order gives: recall min(k / N, 1), median rank (N + 1) / 2."""
    if num_pairs == 0:
        return Retrieval(None, None, None, None)
    r1, r5, r10 = (min(k / num_pairs, 1.0) for k in RECALL_AT)
    return Retrieval(r1, r5, r10, (num_pairs + 1) / 2)
