"""Texts with the clips that the network found for them: the best and the worst of the test split."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.image import imsave

from vatt.data.augment import centre_view
from vatt.data.clips import ClipReader
from vatt.evaluation.features import Clips, Features
from vatt.evaluation.retrieval import Ranks, compare_by_cosine, rank_pairs
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


def pick_examples(clips: Clips, features: Features, read_frames: FrameReader) -> list[ExampleGroup]:
    """Return the texts whose own clip was found best and worst; none where no clip has a text.

    Among equal ranks those come first that differ most in similarity from the best wrong clip.
    """
    pairs = np.flatnonzero(clips.select_pairs("text_to_video"))
    if len(pairs) == 0:
        return []
    similarities = compare_by_cosine(features.text_vt[pairs], features.video_vt[pairs])
    ranks = rank_pairs(similarities)
    order = _order_queries(similarities, ranks).tolist()
    best, worst = order[:NUM_EXAMPLES], order[NUM_EXAMPLES:][::-1][:NUM_EXAMPLES]

    def build(query: int) -> Example:
        found = np.argsort(-similarities[query], kind="stable")[:NUM_FOUND]
        shown = [query, *(int(item) for item in found)]
        return Example(
            text=clips.texts[pairs[query]] or "",
            rank=f"{ranks.better[query] + 1 + ranks.tied[query] / 2:g}",
            num_clips=len(pairs),
            clips=[
                ExampleClip(
                    images=_encode_frames(read_frames(int(pairs[item]))),
                    caption=_caption(place, similarities[query, item], clips.names[pairs[item]]),
                    right=item == query,
                )
                for place, item in enumerate(shown)
            ],
        )

    groups = [ExampleGroup("Best", [build(query) for query in best])]
    if worst:
        groups.append(ExampleGroup("Worst", [build(query) for query in worst]))
    return groups


def _order_queries(similarities: Float[np.ndarray, "N N"], ranks: Ranks) -> Int[np.ndarray, "N"]:
    wrong = np.where(np.eye(len(similarities), dtype=bool), -np.inf, similarities).max(axis=1)
    margins = np.diagonal(similarities) - wrong
    return np.lexsort((-margins, ranks.better + ranks.tied / 2))


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
