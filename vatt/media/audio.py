"""Sound: from source frames to 48 kHz mono on the picture's time line, to and from stored FLAC."""

import math
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from itertools import chain, pairwise
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import Int16

from vatt.media.decoding import MediaError
from vatt.params import AUDIO_RATE_HZ

Samples = Int16[np.ndarray, "S"]

GAP_TOLERANCE_S = 0.01
"""Time stamps are rounded and jitter; sound is moved only where they are further off than this."""
FLAC_COMPRESSION = "3"
FLOATS = {"flt": np.float32, "dbl": np.float64}
"""Sample formats of floats, without the `p` for channels that lie apart."""


class Sound(NamedTuple):
    """Samples, and how many of them come from the source; the others are silence in its gaps."""

    samples: Samples
    num_covered: int


class AudioReader:
    """Reads the sound of a stream forwards; sample 0 is at `origin_s` on the file's time line."""

    def __init__(self, frames: Iterator[tuple[float, Any]], origin_s: float) -> None:
        self._pieces = _fill_gaps(frames, origin_s)
        self._rest: Samples = np.zeros(0, np.int16)
        self._is_covered = False

    def read(self, num_samples: int) -> Sound:
        """Return the next `num_samples`, fewer only at the end of the stream."""
        parts = [self._rest[:0]]
        num_covered = 0
        while num_samples:
            if not len(self._rest):
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest, self._is_covered = piece
            part, self._rest = self._rest[:num_samples], self._rest[num_samples:]
            parts.append(part)
            num_covered += len(part) * self._is_covered
            num_samples -= len(part)
        return Sound(np.concatenate(parts), num_covered)


def _fill_gaps(
    frames: Iterator[tuple[float, Any]], origin_s: float
) -> Iterator[tuple[Samples, bool]]:
    """Yield non-empty pieces of sound that follow each other, and whether the source holds them.

    Silence fills the gaps; where sound overlaps, the later one is cut.
    """
    position = 0  # the next sample to yield
    for start, samples in _resample(frames, origin_s):
        while position < start:
            num_samples = min(start - position, AUDIO_RATE_HZ)
            yield np.zeros(num_samples, np.int16), False
            position += num_samples
        kept = samples[position - start :]
        if len(kept):
            yield kept, True
            position += len(kept)


def _resample(
    frames: Iterator[tuple[float, Any]], origin_s: float
) -> Iterator[tuple[int, Samples]]:
    """Yield pieces at 48 kHz mono with the position of their first sample."""
    run: _Run | None = None
    for (time_s, frame), (next_s, _) in pairwise(chain(frames, [(math.nan, None)])):
        start_s = time_s - origin_s
        if run is None or not run.is_continued_by(frame, start_s, next_s - origin_s):
            if run is not None:
                yield run.resample(None)
            run = _Run(start_s, frame)
        yield run.resample(frame)
    if run is not None:
        yield run.resample(None)


class _Run:
    """Frames of one format without a gap, resampled together."""

    def __init__(self, start_s: float, first_frame: Any) -> None:
        # To 16 bit several channels are mixed so that they cannot clip; to float they could.
        self._resampler = av.AudioResampler("s16", "mono", AUDIO_RATE_HZ)
        self._format = self._describe(first_frame)
        self._end_s = start_s
        self._position = round(start_s * AUDIO_RATE_HZ)

    @staticmethod
    def _describe(frame: Any) -> tuple[str, str, int]:
        return frame.format.name, frame.layout.name, frame.sample_rate

    def is_continued_by(self, frame: Any, start_s: float, next_s: float) -> bool:
        """Return whether a frame follows; `next_s` is the time stamp of the one after it, or NaN.

        One time stamp that is off alone, as Vorbis in Ogg has them, is no gap.
        """
        if self._format != self._describe(frame):
            return False
        if abs(start_s - self._end_s) <= GAP_TOLERANCE_S or math.isnan(next_s):
            return True
        end_s: float = self._end_s + frame.samples / frame.sample_rate
        return abs(next_s - end_s) <= GAP_TOLERANCE_S

    def resample(self, frame: Any | None) -> tuple[int, Samples]:
        """Return what is ready and its position; None as frame returns all that is left."""
        if frame is not None:
            self._end_s += frame.samples / frame.sample_rate
            frame = _clean(frame)
            frame.pts = None  # the resampler must not move sound by time stamps; we do
        # To read the plane takes a tenth of the time of `to_ndarray`.
        parts = [
            np.frombuffer(part.planes[0], np.int16, part.samples)
            for part in self._resampler.resample(frame)
        ]
        samples = np.concatenate(parts) if parts else np.zeros(0, np.int16)
        start = self._position
        self._position += len(samples)
        return start, samples


def _clean(frame: Any) -> Any:
    """Return a frame cut to [-1, 1] if it holds floats; what is not a number becomes silence.

    The resampler would make a bang of NaN and turn the sign of very large samples.
    """
    kind = FLOATS.get(frame.format.name.removesuffix("p"))
    count = frame.samples * (1 if frame.format.is_planar else frame.layout.nb_channels)
    if kind is None or all(
        np.abs(np.frombuffer(plane, kind, count)).max(initial=0) <= 1 for plane in frame.planes
    ):
        return frame
    samples = np.nan_to_num(frame.to_ndarray(), nan=0, posinf=0, neginf=0).clip(-1, 1)
    clean = av.AudioFrame.from_ndarray(samples, frame.format.name, frame.layout.name)
    clean.sample_rate, clean.time_base = frame.sample_rate, frame.time_base
    return clean


def encode_audio(samples: Samples) -> bytes:
    """Return a FLAC file, 48 kHz mono 16 bit, of exactly these samples."""
    file = BytesIO()
    with av.open(file, "w", format="flac", options={"fflags": "+bitexact"}) as container:
        options = {"compression_level": FLAC_COMPRESSION}
        stream = container.add_stream("flac", rate=AUDIO_RATE_HZ, layout="mono", options=options)
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate, frame.time_base = AUDIO_RATE_HZ, Fraction(1, AUDIO_RATE_HZ)
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def decode_audio(data: bytes, first_sample: int, num_samples: int) -> Samples:
    """Return samples of a stored FLAC file, decoded from its beginning: seeking costs more.

    Raises:
        MediaError: the sound is damaged or ends too early.
    """
    parts: list[Samples] = []
    position = 0
    last_sample = first_sample + num_samples
    try:
        with av.open(BytesIO(data), format="flac") as container:
            for frame in container.decode(container.streams.audio[0]):
                if position + frame.samples > first_sample:
                    begin = max(0, first_sample - position)
                    parts.append(frame.to_ndarray()[0, begin : last_sample - position])
                position += frame.samples
                if position >= last_sample:
                    return np.concatenate(parts)
    except (FFmpegError, IndexError) as error:
        raise MediaError(f"the sound cannot be decoded: {error}") from error
    raise MediaError(f"the sound ends at sample {position}")
