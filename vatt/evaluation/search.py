"""Zero-shot retrieval on the clips of a split: what is asked for, among what it is searched (VATT 4.3).

Differs from the paper: parts of a file that descriptions are of, such as the steps of YouCook2, are
searched among segments cut at fixed times, each in the one that it overlaps most.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vatt.evaluation.measures.retrieval import Average, Ranks, average_windows, rank_items
from vatt.evaluation.reading.clips import Clips, Sample
from vatt.evaluation.reading.networks import Arrays

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
