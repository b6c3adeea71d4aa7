"""Texts with the clips that the network found for them, the best and the worst of a split."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.image import imsave

from vatt.evaluate.clips import Clips
from vatt.evaluate.comparison import RankedPair
from vatt.evaluate.measures import find_mean_ranks
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
        video = reader.read_video(segment, start, centre_view(size_px, clip.frame_size_px))
        frames: UInt8[np.ndarray, "T H W 3"] = (video * 255).round().byte().numpy()
        return frames

    return read_frames


class ShownClip(NamedTuple):
    """A clip that is shown."""

    images: Sequence[str]
    """Frames as `data:` addresses."""
    caption: str
    right: bool


class TextExample(NamedTuple):
    """A text, its own clip first, then those that were found."""

    text: str
    rank: str
    num_clips: int
    clips: Sequence[ShownClip]


Examples = Mapping[str, Sequence[TextExample]]
"""By title."""


def pick_examples(clips: Clips, pair: RankedPair, read_frames: FrameReader) -> Examples:
    """Return the texts whose own clip was found best and worst; none where no clip has a text.

    `pair` is of the direction text_to_video. Among equal ranks those come first that differ most in
    similarity from the best wrong clip.
    """
    search, mean_ranks = pair.search, find_mean_ranks(pair.trained)
    order = np.lexsort((-pair.trained.margin, mean_ranks)).tolist()
    best, worst = order[:NUM_EXAMPLES], order[NUM_EXAMPLES:][::-1][:NUM_EXAMPLES]

    def show(clip: int, place: int, similarity: float) -> tuple[list[str], str]:
        frames = read_frames(clip)
        chosen = np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int)
        row = clips.rows.iloc[clip]
        found = "its own clip" if place == 0 else f"found {place}"
        times = f"{row.start_s:.1f}–{row.end_s:.1f}\u00a0s"
        caption = f"{found}, similarity {similarity:.2f}: {clips.videos[clip]}, {times}"
        return [_encode_image(frames[number]) for number in chosen], caption

    def build(query: int) -> TextExample:
        similarities = search.items @ search.queries[query]
        right = int(search.right[query])
        found = np.argsort(-similarities, kind="stable")[:NUM_FOUND]
        middles = [sample[len(sample) // 2] for sample in search.samples]
        return TextExample(
            text=search.texts[query],
            rank=f"{mean_ranks[query]:g}",
            num_clips=len(middles),
            clips=[
                ShownClip(*show(middles[item], place, similarities[item]), right=item == right)
                for place, item in enumerate([right, *found.tolist()])
            ],
        )

    titles = {"Best": best, "Worst": worst}
    return {
        title: [build(query) for query in queries] for title, queries in titles.items() if queries
    }


def _encode_image(image: UInt8[np.ndarray, "H W 3"]) -> str:
    buffer = io.BytesIO()
    imsave(buffer, image, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
