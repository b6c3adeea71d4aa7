"""The windows of a media file as a network takes them, read in memory that does not grow with it.

A file is cut as for training (`vatt.preprocess.cuts`), but nothing is encoded and stored: its
pictures are scaled to the size that the network sees at once.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vatt.loading.tasks import TaskInput
from vatt.media.video import Picture
from vatt.params import AUDIO_RATE_HZ, CutParams
from vatt.preprocess.cuts import Cut, cut_file

PIECE_S = 4.0
"""The length of what is decoded at once."""
TOUCHING_S = 1e-3  # pieces that are this near in time follow each other: what is less is rounding


class FileWindow(NamedTuple):
    """A window of a file; picture or sound is None where the file has none at that time."""

    start_s: float
    """On the time line of the file."""
    end_s: float
    video: UInt8[Tensor, "T H W 3"] | None
    audio: Float[Tensor, " S"] | None
    """At 48 kHz in [-1, 1]."""


def read_windows(
    path: Path,
    task_input: TaskInput,
    frame_rate_hz: float,
    problems: list[str],
    stride_s: float | None = None,
) -> Iterator[FileWindow]:
    """Yield windows every `stride_s`, by default side by side, and one that ends with the file.

    Each is as the network of `task_input` takes it: the middle square of the pictures, and the
    sound of the same time. What is shorter than a window repeats from its beginning. Gaps of the
    file are left out. Losses are described in `problems`.

    Raises:
        MediaError: nothing can be decoded, or time stamps or picture are absurd.
    """
    clip = task_input.stored_clip
    cutting = CutParams(
        frame_rate_hz=frame_rate_hz,
        short_side_px=clip.frame_size_px,
        segment_s=PIECE_S,
        min_segment_s=1 / frame_rate_hz,
    )
    num_frames = clip.num_frames
    if "video" not in task_input.modalities:
        num_frames = math.ceil(clip.num_samples / AUDIO_RATE_HZ * frame_rate_hz - 1e-6)
    sizes = _Sizes(num_frames, clip.frame_size_px, clip.num_samples, frame_rate_hz)
    step = num_frames if stride_s is None else max(1, round(stride_s * frame_rate_hz))
    stretch: _Stretch | None = None
    for cut in cut_file(path, cutting, problems):
        if stretch is None or abs(stretch.end_s - cut.start_s) > TOUCHING_S:
            if stretch is not None:
                yield from stretch.finish()
            stretch = _Stretch(cut.start_s, sizes, step)
        yield from stretch.add(cut)
    if stretch is not None:
        yield from stretch.finish()


class _Sizes(NamedTuple):
    """What a window holds."""

    num_frames: int
    size_px: int
    num_samples: int
    frame_rate_hz: float

    def find_sample(self, frame: int) -> int:
        """Return the sample that is heard when a frame begins."""
        return round(frame / self.frame_rate_hz * AUDIO_RATE_HZ)


class _Stretch:
    """A stretch of a file without gaps, of which only what windows still need is kept."""

    def __init__(self, start_s: float, sizes: _Sizes, step: int) -> None:
        self._start_s, self._sizes, self._step = start_s, sizes, step
        self._next = 0
        """The frame at which the next window begins."""
        self._covered = 0
        """The frame at which the last window ended."""
        self._first = 0
        """The frame that is kept first."""
        self._pictures: list[Picture | None] = []
        self._is_heard: list[bool] = []
        """Whether the file has sound, for each frame."""
        self._samples = np.zeros(0, np.int16)

    @property
    def end_s(self) -> float:
        """Where it ends, as far as it is known."""
        return self._start_s + self._num_frames / self._sizes.frame_rate_hz

    @property
    def _num_frames(self) -> int:
        return self._first + len(self._pictures)

    def add(self, cut: Cut) -> Iterator[FileWindow]:
        """Add the piece that follows, and yield the windows that are whole."""
        pictures = [p if p is None else _cut_square(p, self._sizes.size_px) for p in cut.pictures]
        self._pictures += pictures
        self._is_heard += [cut.sound.num_covered > 0] * len(pictures)
        self._samples = np.concatenate([self._samples, cut.sound.samples])
        while self._next + self._num_needed <= self._num_frames:
            yield self._read(self._next)
            self._next += self._step
        # The last window may have to begin before the next one.
        kept = max(self._first, min(self._next, self._num_frames - self._num_needed))
        num_samples = self._sizes.find_sample(kept) - self._sizes.find_sample(self._first)
        self._samples = self._samples[num_samples:]
        del self._pictures[: kept - self._first], self._is_heard[: kept - self._first]
        self._first = kept

    def finish(self) -> Iterator[FileWindow]:
        """Yield what the windows so far have not covered."""
        while self._covered < self._num_frames:
            start = min(self._next, max(self._first, self._num_frames - self._sizes.num_frames))
            yield self._read(start)
            self._next += self._step

    @property
    def _num_needed(self) -> int:
        """How many frames a window lasts; its sound may be longer than its pictures."""
        heard = math.ceil(
            self._sizes.num_samples / AUDIO_RATE_HZ * self._sizes.frame_rate_hz - 1e-6
        )
        return max(self._sizes.num_frames, heard)

    def _read(self, start: int) -> FileWindow:
        """Return the window that begins at a frame."""
        sizes, first = self._sizes, start - self._first
        end = min(first + sizes.num_frames, len(self._pictures))
        self._covered = self._first + end
        shown = self._pictures[first:end]
        video = audio = None
        held = next((picture for picture in shown if picture is not None), None)
        if held is not None:
            # As `Cut.hold_pictures`: where nothing is shown, the picture before stays.
            pictures = [held := held if picture is None else picture for picture in shown]
            video = torch.from_numpy(np.stack(_repeat(pictures, sizes.num_frames)))
        if any(self._is_heard[first:end]):
            begin = sizes.find_sample(start) - sizes.find_sample(self._first)
            begin = max(0, min(begin, len(self._samples) - sizes.num_samples))
            samples = self._samples[begin : begin + sizes.num_samples]
            samples = samples[np.arange(sizes.num_samples) % len(samples)]
            audio = torch.from_numpy(samples).float() / 32768
        start_s = self._start_s + start / sizes.frame_rate_hz
        end_s = self._start_s + self._covered / sizes.frame_rate_hz
        return FileWindow(start_s, end_s, video, audio)


def _repeat(pictures: list[Picture], length: int) -> list[Picture]:
    return [pictures[number % len(pictures)] for number in range(length)]


def _cut_square(picture: Picture, size_px: int) -> Picture:
    """Return the square in the middle of a picture, in memory of its own."""
    top_px, left_px = ((side - size_px) // 2 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[top_px : top_px + size_px, left_px : left_px + size_px])
