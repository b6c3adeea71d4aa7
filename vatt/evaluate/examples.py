"""Texts with the clips that the network found for them: the best and the worst of the test split."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.image import imsave

from vatt.evaluate.clips import Clips
from vatt.evaluate.comparison import RankedPair
from vatt.evaluate.retrieval import find_mean_ranks
from vatt.loading.augmentation import centre_view
from vatt.loading.clips import ClipReader
from vatt.params import ClipParams

NUM_EXAMPLES = 3
NUM_FOUND = 3
NUM_FRAMES = 3

FrameReader = Callable[[int], UInt8[np.ndarray, "T H W 3"]]
"""Reads the RGB frames of the clip with this number in its split."""


def open_frame_reader(preprocess_dir: Path, clip: ClipParams, split: str) -> FrameReader:
    """Return a reader of the middle window of any clip of a split."""
    reader = ClipReader(preprocess_dir, clip)
    rows = reader.read_rows(split)

    def read_frames(number: int) -> UInt8[np.ndarray, "T H W 3"]:
        segment = rows.iloc[number]
        start = max(0, int(segment.num_frames) - clip.num_frames) // 2
        size_px = (int(segment.height_px), int(segment.width_px))
        view = centre_view(size_px, clip.frame_size_px)
        frames: UInt8[np.ndarray, "T H W 3"] = (
            (reader.read_video(segment, start, view) * 255).round().byte().numpy()
        )
        return frames

    return read_frames


class ExampleClip(NamedTuple):
    """Frames of a clip as `data:` addresses, and what to write below them."""

    images: Sequence[str]
    caption: str
    right: bool


class Example(NamedTuple):
    """A text, its own clip first, then those that were found."""

    text: str
    rank: str
    num_clips: int
    clips: Sequence[ExampleClip]


class ExampleGroup(NamedTuple):
    """Examples under one title."""

    title: str
    examples: Sequence[Example]


def pick_examples(clips: Clips, pair: RankedPair, read_frames: FrameReader) -> list[ExampleGroup]:
    """Return the texts whose own clip was found best and worst; none where no clip has a text.

    `pair` is of the direction text_to_video. Among equal ranks those come first that differ most in
    similarity from the best wrong clip.
    """
    ranks, search = pair.trained, pair.searches[0]
    order = np.lexsort((-ranks.margin, find_mean_ranks(ranks))).tolist()
    best, worst = order[:NUM_EXAMPLES], order[NUM_EXAMPLES:][::-1][:NUM_EXAMPLES]

    def build(query: int) -> Example:
        similarities = search.items @ search.queries[query]
        right = int(search.right[query])
        found = np.argsort(-similarities, kind="stable")[:NUM_FOUND]
        clip_of = [sample[len(sample) // 2] for sample in search.samples]
        return Example(
            text=search.texts[query],
            rank=f"{find_mean_ranks(ranks)[query]:g}",
            num_clips=len(search.samples),
            clips=[
                ExampleClip(
                    images=_encode_frames(read_frames(clip_of[item])),
                    caption=_caption(place, similarities[item], clips.names[clip_of[item]]),
                    right=item == right,
                )
                for place, item in enumerate([right, *found.tolist()])
            ],
        )

    titles = {"Best": best, "Worst": worst}
    return [
        ExampleGroup(title, [build(query) for query in queries])
        for title, queries in titles.items()
        if queries
    ]


def _caption(place: int, similarity: float, name: str) -> str:
    found = "its own clip" if place == 0 else f"found {place}"
    return f"{found}, similarity {similarity:.2f}: {name}"


def _encode_frames(frames: UInt8[np.ndarray, "T H W 3"]) -> list[str]:
    chosen = np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int)
    return [_encode_image(frames[index]) for index in chosen]


def _encode_image(image: UInt8[np.ndarray, "H W 3"]) -> str:
    buffer = io.BytesIO()
    imsave(buffer, image, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
