"""Zero-shot retrieval: recall at k and median rank (VATT section 4.3).

Zero-shot retrieval on the clips of a split: what is asked for, among what it is searched (VATT 4.3).

Differs from the paper: parts of a file that descriptions are of, such as the steps of YouCook2, are
searched among segments cut at fixed times, each in the one that it overlaps most.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vatt.evaluate.clips import Clips, Sample
from vatt.evaluate.measures import Interval, bootstrap, mean_of, median_of
from vatt.evaluate.networks import Arrays

Average = Literal["embeddings", "similarities"]
"""What is averaged over the windows of a clip."""
RECALL_AT = (1.0, 5.0, 10.0)
SIMILARITY_DECIMALS = (
    6  # finer differences are rounding noise of float32 networks, so they are ties
)
MAX_SIMILARITIES = 20_000_000
"""Held at once, to bound memory."""


class Ranks(NamedTuple):
    """Where the right item of each query stands among all items.

    better: how many wrong items are more similar to the query. tied: how many wrong items are
    exactly as similar. margin: by how much the right one is more similar than the best wrong one.
    """

    better: Int[np.ndarray, "Q"]
    tied: Int[np.ndarray, "Q"]
    margin: Float[np.ndarray, "Q"]


class Retrieval(NamedTuple):
    """Recall at 1, 5 and 10 in [0, 1] and the median rank, 1 being best; None without any pair."""

    r1: float | None
    r5: float | None
    r10: float | None
    median_rank: float | None


def normalise(vectors: Float[np.ndarray, "*N E"]) -> Float[np.ndarray, "*N E"]:
    """Return the vectors at length 1, in float64; a vector of zeros stays, similar to nothing."""
    vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Float[np.ndarray, "*N E"] = vectors / np.where(lengths == 0, 1, lengths)
    return scaled


def average_windows(
    windows: Float[np.ndarray, "N W E"], average: Average
) -> Float[np.ndarray, "N E"]:
    """Return one vector for the W windows of each clip, to be multiplied with others.

    embeddings: their mean at length 1, so that products are cosines. similarities: the mean of the
    windows at length 1, so that products are means of cosines.
    """
    if average == "embeddings":
        return normalise(windows.mean(axis=1, dtype=np.float64))
    mean: Float[np.ndarray, "N E"] = normalise(windows).mean(axis=1)
    return mean


def rank_items(
    queries: Float[np.ndarray, "Q E"],
    items: Float[np.ndarray, "G E"],
    right: Int[np.ndarray, "Q"],
) -> Ranks:
    """Rank the item `right` of each query among all items by their products."""
    rows = max(1, MAX_SIMILARITIES // max(1, len(items)))
    parts = [
        rank_rows(queries[first : first + rows] @ items.T, right[first : first + rows])
        for first in range(0, len(queries), rows)
    ]
    if not parts:
        return rank_rows(np.zeros((0, len(items))), right)
    return Ranks._make(np.concatenate(column) for column in zip(*parts, strict=True))


def rank_rows(similarities: Float[np.ndarray, "Q G"], right: Int[np.ndarray, "Q"]) -> Ranks:
    """Rank the item `right` of each row of similarities."""
    rounded = similarities.round(SIMILARITY_DECIMALS)
    own = np.take_along_axis(rounded, right[:, None], axis=1)
    wrong = rounded.copy()
    np.put_along_axis(wrong, right[:, None], -np.inf, axis=1)
    best_wrong = wrong.max(axis=1, initial=-np.inf)
    return Ranks(
        better=(rounded > own).sum(axis=1),
        tied=(rounded == own).sum(axis=1) - 1,
        margin=own[:, 0] - best_wrong,
    )


def measure_retrieval(ranks: Ranks) -> Retrieval:
    """Return what is expected when ties are broken at random: an indifferent network is at chance."""
    if len(ranks.better) == 0:
        return Retrieval(None, None, None, None)
    r1, r5, r10 = (recall_at(k, ranks) for k in RECALL_AT)
    return Retrieval(r1, r5, r10, float(np.median(find_mean_ranks(ranks))))


def recall_at(k: float, ranks: Ranks) -> float:
    """Return the expected share of queries whose right item is among the first `k`."""
    return float(find_within(k, ranks).mean())


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


def estimate_intervals(ranks: Ranks, videos: Sequence[str]) -> dict[str, Interval | None]:
    """Return the intervals of `Retrieval`, when other queries of the same kind were asked.

    `videos` names the video of each query. The items stay those that they are.
    """
    if len(ranks.better) == 0:
        return dict.fromkeys(Retrieval._fields)
    recalls = zip(Retrieval._fields, RECALL_AT, strict=False)
    intervals = {name: bootstrap(videos, mean_of(find_within(k, ranks))) for name, k in recalls}
    return intervals | {"median_rank": bootstrap(videos, median_of(find_mean_ranks(ranks)))}


def measure_chance(num_items: int) -> Retrieval:
    """Return what a random order gives: recall min(k / N, 1), median rank (N + 1) / 2."""
    if num_items == 0:
        return Retrieval(None, None, None, None)
    r1, r5, r10 = (min(k / num_items, 1.0) for k in RECALL_AT)
    return Retrieval(r1, r5, r10, (num_items + 1) / 2)


DIRECTIONS = ("text_to_video", "audio_to_video")


class Search(NamedTuple):
    """Queries and items as vectors to be multiplied.

    samples: the clips of each item. right: the item of each query. texts: of each query, empty for
    sounds. videos: the file of each query.
    """

    queries: Float[np.ndarray, "Q E"]
    items: Float[np.ndarray, "G E"]
    right: Int[np.ndarray, "Q"]
    samples: Sequence[Sample]
    texts: Sequence[str]
    videos: Sequence[str]

    @property
    def sources(self) -> dict[str, int]:
        """How many of the queries are of each source."""
        return dict(sorted(Counter(video.partition("/")[0] for video in self.videos).items()))

    def rank(self) -> Ranks:
        """Rank the right item of each query."""
        return rank_items(self.queries, self.items, self.right)


def open_search(
    direction: str, clips: Clips, features: Arrays, average: Average = "embeddings"
) -> Search:
    """Search the samples that have a video and what is asked by: a sound, or texts.

    Each of several descriptions of a sample is a query of its own.
    """
    samples = clips.find_pairs(direction)
    if not samples:
        nothing = np.zeros((0, 1))
        return Search(nothing, nothing, np.zeros(0, dtype=np.int64), [], [], [])
    if direction == "audio_to_video":
        items, right = clips.see_samples(features["video_va"], samples), np.arange(len(samples))
        queries = clips.see_samples(features["audio_va"], samples)
        texts = [""] * len(samples)
    else:
        items = clips.see_samples(features["video_vt"], samples)
        first_text = np.cumsum([0, *map(len, clips.texts)])
        rows = [
            (number, first_text[sample[0]] + place, text)
            for number, sample in enumerate(samples)
            for place, text in enumerate(clips.texts[sample[0]])
        ]
        right = np.array([number for number, _, _ in rows])
        queries = features["text_vt"][[place for _, place, _ in rows]][:, None]
        texts = [text for _, _, text in rows]
    return Search(
        queries=average_windows(queries, average),
        items=average_windows(items, average),
        right=right,
        samples=samples,
        texts=texts,
        videos=[clips.videos[samples[number][0]] for number in right],
    )
