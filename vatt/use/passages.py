"""The passages of a media file and their windows as a network takes them.

A file is cut into passages as `vatt.preprocess` cuts it into segments, and the network sees windows
spread over each of them as in evaluation. But nothing is encoded and stored: pictures are scaled at
once to the size that the network sees. Two passages are in memory, however long the file is.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vatt.core.errors import StageError
from vatt.loading.loader import MIDDLE, spread_places
from vatt.loading.tasks import TaskInput
from vatt.media.decoding import MediaError
from vatt.media.video import Picture
from vatt.params import AUDIO_RATE_HZ, CutParams
from vatt.preprocess.cuts import Cut, cut_file

WINDOWS_LONG = 2.5
"""The length of a passage in windows, where it is not given."""
MIN_PASSAGE_S = 1.0
"""The shortest passage, where it is not given: a network of images sees one frame."""
MAX_PASSAGE_S = 600.0
"""Two passages are held in memory."""


class Passage(NamedTuple):
    """A passage of a file; picture or sound is None where the file has none at that time."""

    start_s: float
    """On the time line of the file."""
    end_s: float
    video: UInt8[Tensor, "W T H W 3"] | None
    """The middle square of the pictures of W windows."""
    audio: Float[Tensor, "W S"] | None
    """The sound of the same windows, at 48 kHz in [-1, 1]."""


class _Length(NamedTuple):
    """How long a cut is, as `TaskInput.find_last_start` takes it."""

    num_frames: int
    frame_rate_hz: float


def read_passages(
    path: Path,
    task_input: TaskInput,
    frame_rate_hz: float,
    problems: list[str],
    passage_s: float | None = None,
) -> Iterator[Passage]:
    """Yield the passages of a file, of `passage_s` each; a short rest belongs to the one before it.

    A passage has as many windows as cover it; what is shorter than a window repeats from its
    beginning. Gaps of the file are left out. Losses are described in `problems`.

    Raises:
        MediaError: nothing can be decoded, or time stamps or picture are absurd.
        StageError: the length is none; see `choose_length`.
    """
    window_s = measure_window(task_input, frame_rate_hz)
    passage_s = choose_length(task_input, frame_rate_hz, passage_s)
    cutting = CutParams(
        frame_rate_hz=frame_rate_hz,
        short_side_px=task_input.clip.frame_size_px,
        segment_s=passage_s,
        min_segment_s=passage_s / 2,
    )
    is_empty = True
    for cut in cut_file(path, cutting, problems):
        is_empty = False
        length_s = len(cut.pictures) / frame_rate_hz
        places = spread_places(math.ceil(length_s / window_s - 1e-6))
        if task_input.task == "image":
            places = (MIDDLE,)
        last_start = task_input.find_last_start(_Length(len(cut.pictures), frame_rate_hz))
        starts = [place * last_start for place in places]
        if "video" in task_input.modalities:  # the sound begins with a picture
            starts = [round(start) for start in starts]
        video = audio = None
        if "video" in task_input.modalities and cut.num_pictures:
            video = _see(cut, task_input, starts)
        if "audio" in task_input.modalities and cut.sound.num_covered:
            audio = _hear(cut, task_input, starts, frame_rate_hz)
        yield Passage(cut.start_s, cut.start_s + length_s, video, audio)
    if is_empty:
        raise MediaError("; ".join(problems) or "nothing is shown and nothing is heard")


def choose_length(task_input: TaskInput, frame_rate_hz: float, passage_s: float | None) -> float:
    """Return the seconds of a passage: as given, else 2.5 windows, but not below a second.

    Raises:
        StageError: it is no number from a frame to `MAX_PASSAGE_S`.
    """
    if passage_s is None:
        return max(WINDOWS_LONG * measure_window(task_input, frame_rate_hz), MIN_PASSAGE_S)
    if not 1 / frame_rate_hz <= passage_s <= MAX_PASSAGE_S:
        raise StageError(
            f"length = {passage_s:g}: a passage lasts from {1 / frame_rate_hz:g} s, a frame, to "
            f"{MAX_PASSAGE_S:g} s"
        )
    return passage_s


def measure_window(task_input: TaskInput, frame_rate_hz: float) -> float:
    """Return how many seconds a window lasts."""
    if "video" in task_input.modalities:
        return task_input.stored_clip.num_frames / frame_rate_hz
    return task_input.clip.num_samples / AUDIO_RATE_HZ


def _see(cut: Cut, task_input: TaskInput, starts: list[float]) -> UInt8[Tensor, "W T H W 3"]:
    clip = task_input.stored_clip
    pictures = np.stack([_cut_square(one, clip.frame_size_px) for one in cut.hold_pictures()])
    numbers = np.arange(clip.num_frames) % min(clip.num_frames, len(pictures))
    return torch.from_numpy(np.stack([pictures[int(start) + numbers] for start in starts]))


def _hear(
    cut: Cut, task_input: TaskInput, starts: list[float], frame_rate_hz: float
) -> Float[Tensor, "W S"]:
    samples, num_samples = cut.sound.samples, task_input.clip.num_samples
    numbers = np.arange(num_samples) % min(num_samples, len(samples))
    # The sound of a window may be up to a frame longer than its pictures.
    last = max(0, len(samples) - num_samples)
    firsts = [min(last, round(start / frame_rate_hz * AUDIO_RATE_HZ)) for start in starts]
    return (
        torch.from_numpy(np.stack([samples[first + numbers] for first in firsts])).float() / 32768
    )


def _cut_square(picture: Picture, size_px: int) -> Picture:
    """Return the square in the middle of a picture."""
    top_px, left_px = ((side - size_px) // 2 for side in picture.shape[:2])
    return picture[top_px : top_px + size_px, left_px : left_px + size_px]
