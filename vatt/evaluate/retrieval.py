"""Zero-shot retrieval on the clips of a split: recall at k, median rank (VATT section 4.3).

Differs from the paper: a description of a part of a file, such as a step of YouCook2, is searched
among segments cut at fixed times, and the right one is that which overlaps the part most.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vatt.evaluate.features import SampleClips, Seen
from vatt.evaluate.metrics import Ranks, rank_rows

Average = Literal["embeddings", "similarities"]
"""What is averaged over the windows of a clip."""
DIRECTIONS = {"text_to_video": "text to video", "audio_to_video": "sound to video"}
SIMILARITY_DECIMALS = 6  # finer differences are rounding noise of float32 networks: ties
MAX_SIMILARITIES = 20_000_000  # held at once, to bound memory


def average_windows(
    windows: Float[np.ndarray, "N W E"], average: Average
) -> Float[np.ndarray, "N E"]:
    """Return one vector for the W windows of each clip, to be multiplied with others.

    The average of `embeddings` is their mean at length 1, so that products are cosines; that of
    `similarities` is the mean of the windows at length 1, so that products are means of cosines.
    A vector of zeros stays, similar to nothing.
    """
    if average == "embeddings":
        windows = windows.mean(axis=1, dtype=np.float64)[:, None]
    windows = windows.astype(np.float64)
    lengths = np.linalg.norm(windows, axis=-1, keepdims=True)
    return np.asarray((windows / np.where(lengths == 0, 1, lengths)).mean(axis=1))


def rank_items(
    queries: Float[np.ndarray, "Q E"],
    items: Float[np.ndarray, "G E"],
    right: Int[np.ndarray, "Q"],
) -> Ranks:
    """Rank the item `right` of each query among all items by their products."""
    rows = max(1, MAX_SIMILARITIES // max(1, len(items)))
    parts = [
        rank_rows(
            (queries[first : first + rows] @ items.T).round(SIMILARITY_DECIMALS),
            right[first : first + rows],
        )
        for first in range(0, max(1, len(queries)), rows)
    ]
    return Ranks._make(np.concatenate(column) for column in zip(*parts, strict=True))


class Search(NamedTuple):
    """The samples that have a video and what is asked with, as vectors to be multiplied."""

    queries: Float[np.ndarray, "Q E"]
    items: Float[np.ndarray, "G E"]
    right: Int[np.ndarray, "Q"]
    """The item of each query."""
    samples: Sequence[SampleClips]
    """The clips of each item."""
    texts: Sequence[str]
    """The text of each query, empty for sounds."""
    videos: Sequence[str]
    """The file of each query."""

    @property
    def sources(self) -> dict[str, int]:
        """The number of queries from each source."""
        return dict(sorted(Counter(video.partition("/")[0] for video in self.videos).items()))

    def rank(self) -> Ranks:
        """Rank the right item of each query."""
        return rank_items(self.queries, self.items, self.right)


def open_search(direction: str, seen: Seen, average: Average = "embeddings") -> Search:
    """Search the samples that have a video and what is asked with: a sound, or texts.

    Each of several descriptions of a sample is a query. There is none for a network without words.
    """
    clips, features = seen
    samples = clips.find_pairs(direction)
    is_readable = direction == "audio_to_video" or "text_vt" in features
    if not samples or not is_readable:
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
