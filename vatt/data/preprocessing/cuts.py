"""Cutting: a source file becomes pieces of picture and sound that start and end together."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vatt.data.audio import AudioReader, Sound
from vatt.data.media import MediaError, best_stream, decode, open_media
from vatt.data.video import FrameScaler, Picture, sample_frames
from vatt.params import AUDIO_RATE_HZ, PreprocessParams

TOLERANCE_S = 0.01
"""So little sound beyond the last frame does not begin another frame."""
LOST_END_S = 1.0
"""A file that ends this much before its declared length has lost its end."""


@dataclass(frozen=True)
class Cut:
    """A piece of a source file."""

    start_s: float
    """On the time line of the file."""
    pictures: list[Picture | None]
    """None where the source shows nothing."""
    sound: Sound
    """As long as the pictures."""
    start_offset_s: float
    """Of the whole file: start of the sound minus start of the picture; NaN if one is absent."""

    @property
    def num_pictures(self) -> int:
        """Frames that the source shows."""
        return sum(picture is not None for picture in self.pictures)

    def hold_pictures(self) -> list[Picture]:
        """Return a picture for every frame: that of the source, or else the last one before it.

        The first one of the source also stands where nothing is before it.
        """
        held = next(picture for picture in self.pictures if picture is not None)
        pictures = []
        for picture in self.pictures:
            held = held if picture is None else picture
            pictures.append(held)
        return pictures


@dataclass(frozen=True)
class _Track:
    """A stream of which one frame has been decoded."""

    stream: Any
    start_s: float
    first_frame: Any
    frames: Iterator[tuple[float, Any]]


def cut_file(path: Path, params: PreprocessParams, problems: list[str]) -> Iterator[Cut]:
    """Yield the pieces of a file, of `segment_s` each; at most two are in memory.

    A rest below `min_segment_s` belongs to the piece before it. A piece where the source shows
    nothing and is silent by absence is left out. Losses are described in `problems`.

    Raises:
        MediaError: nothing can be decoded, or time stamps or picture are absurd.
    """
    with ExitStack() as stack:
        video = _open_track(path, "video", problems, stack)
        audio = _open_track(path, "audio", problems, stack)
        starts_s = [track.start_s for track in (video, audio) if track]
        if not starts_s:
            raise MediaError("; ".join(problems) or "there is no picture and no sound")
        reader = _CutReader(min(starts_s), video, audio, params)
        for cut in _join_short_rest(reader, params):
            if cut.num_pictures or cut.sound.num_covered:
                yield cut
        declared_s = max(_declared_s(track) for track in (video, audio) if track)
        if reader.end_s < declared_s - LOST_END_S:
            problems.append(f"the file ends at {reader.end_s:.2f} s of {declared_s:.2f} s")


def _open_track(
    path: Path, kind: Literal["video", "audio"], problems: list[str], stack: ExitStack
) -> _Track | None:
    """Open the best stream of a kind; each kind reads the file by itself, at its own pace."""
    container = stack.enter_context(open_media(path))
    stream = best_stream(container, kind)
    if stream is None:
        return None
    frames = decode(container, stream, problems)
    first = next(frames, None)
    if first is None:
        problems.append(f"{kind}: nothing can be decoded")
        return None
    return _Track(stream, first[0], first[1], chain([first], frames))


def _declared_s(track: _Track) -> float:
    """The length of the file by its header, 0 if it says none."""
    return (track.stream.container.duration or 0) / 1e6


class _CutReader:
    """Reads pieces of any length, one after another."""

    def __init__(
        self, origin_s: float, video: _Track | None, audio: _Track | None, params: PreprocessParams
    ) -> None:
        self._origin_s = origin_s
        self._frame_rate_hz = params.frame_rate_hz
        self._num_frames = 0
        self._start_offset_s = audio.start_s - video.start_s if audio and video else math.nan
        self._pictures: Iterator[Picture | None] = iter(())
        if video:
            scaler = FrameScaler(video.stream, video.first_frame, params.short_side_px)
            self._pictures = sample_frames(video.frames, scaler, origin_s, params.frame_rate_hz)
        self._sound = AudioReader(audio.frames if audio else iter(()), origin_s)

    @property
    def end_s(self) -> float:
        """Time up to which the file has been read."""
        return self._origin_s + self._num_frames / self._frame_rate_hz

    def read(self, num_frames: int) -> Cut:
        """Return the next piece; it is shorter only at the end of the file."""
        start_s = self.end_s
        begin = self._sample_at(0)
        pictures = list(islice(self._pictures, num_frames))
        samples, num_covered = self._sound.read(self._sample_at(num_frames) - begin)
        sound_s = len(samples) / AUDIO_RATE_HZ - TOLERANCE_S
        num_read = max(len(pictures), min(num_frames, math.ceil(sound_s * self._frame_rate_hz)))
        length = self._sample_at(num_read) - begin
        samples = np.pad(samples[:length], (0, max(0, length - len(samples))))
        pictures += [None] * (num_read - len(pictures))
        self._num_frames += num_read
        sound = Sound(samples, min(num_covered, length))
        return Cut(start_s, pictures, sound, self._start_offset_s)

    def _sample_at(self, num_frames: int) -> int:
        """Position of the sample that is heard `num_frames` later."""
        return round((self._num_frames + num_frames) / self._frame_rate_hz * AUDIO_RATE_HZ)


def _join_short_rest(reader: _CutReader, params: PreprocessParams) -> Iterator[Cut]:
    """Yield pieces of the wanted length, the last one with what is too short for its own."""
    num_frames = max(1, round(params.segment_s * params.frame_rate_hz))
    min_frames = params.min_segment_s * params.frame_rate_hz
    cut = reader.read(num_frames)
    while True:
        rest = reader.read(num_frames)
        if len(rest.pictures) < min_frames:
            break
        yield cut
        cut = rest
    sound = Sound(
        np.concatenate([cut.sound.samples, rest.sound.samples]),
        cut.sound.num_covered + rest.sound.num_covered,
    )
    yield Cut(cut.start_s, cut.pictures + rest.pictures, sound, cut.start_offset_s)
