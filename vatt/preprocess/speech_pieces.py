"""Pieces of the sound of a file for a speech recogniser: 16 kHz, cut where nobody speaks."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Float32

from vatt.media.audio import AudioReader
from vatt.media.decoding import FrameReader, best_stream, open_media
from vatt.params import AUDIO_RATE_HZ
from vatt.preprocess.analysis import (
    FRAME_S,
    FRAME_SAMPLES,
    SOUND_RATE_HZ,
    SPEECH_THRESHOLD,
    SpeechDetector,
)

PIECE_FRAMES = round(300 / FRAME_S)
"""Five minutes bound the memory: Whisper's spectrogram takes 0.2 MB a second while it is made."""
SEARCHED_FRAMES = round(60 / FRAME_S)
"""The last part of a piece, in which the quietest second is looked for."""
QUIET_FRAMES = round(1 / FRAME_S)
READ_SAMPLES = 30 * AUDIO_RATE_HZ


class SpeechPiece(NamedTuple):
    """A part of the sound, and the probability of speech in each of its frames of 32 ms."""

    start_s: float
    """On the time line of the file."""
    samples: Float32[np.ndarray, "S"]
    speech: Float32[np.ndarray, "T"]

    def measure_speech(self, start_s: float, end_s: float) -> float:
        """Return the share of a part in which somebody speaks; times begin at the piece."""
        first = min(int(start_s / FRAME_S), len(self.speech) - 1)
        last = math.ceil(min(end_s / FRAME_S, len(self.speech)))
        part = self.speech[first : max(first + 1, last)]
        return float(np.mean(part >= SPEECH_THRESHOLD))


def read_speech_pieces(path: Path) -> Iterator[SpeechPiece]:
    """Yield the sound of a file in pieces of at most five minutes; none if it has no sound.

    What cannot be decoded is silence here, and named where the file is cut.

    Raises:
        MediaError: it is no media file, is encrypted, or its time stamps jump.
    """
    detector = SpeechDetector()
    samples, speech = np.zeros(0, np.float32), np.zeros(0, np.float32)
    begin = 0  # in frames
    for sound in _read_sound(path):
        samples = np.concatenate([samples, sound])
        speech = np.concatenate([speech, detector.hear(sound)])
        while len(speech) > PIECE_FRAMES:
            cut = _find_quiet(speech[:PIECE_FRAMES])
            yield _make_piece(begin, samples[: cut * FRAME_SAMPLES], speech[:cut])
            samples, speech = samples[cut * FRAME_SAMPLES :], speech[cut:]
            begin += cut
    speech = np.concatenate([speech, detector.finish()])
    if len(speech):
        yield _make_piece(begin, samples, speech)


def _make_piece(
    begin: int, samples: Float32[np.ndarray, "S"], speech: Float32[np.ndarray, "T"]
) -> SpeechPiece:
    return SpeechPiece(begin * FRAME_S, samples, speech)


def _find_quiet(speech: Float32[np.ndarray, "T"]) -> int:
    """Return the middle of the second with the least speech in the last minute."""
    sums = np.cumsum(np.append(0.0, speech[-SEARCHED_FRAMES:]))
    quiet = int(np.argmin(sums[QUIET_FRAMES:] - sums[:-QUIET_FRAMES]))
    return len(speech) - SEARCHED_FRAMES + quiet + QUIET_FRAMES // 2


def _read_sound(path: Path) -> Iterator[Float32[np.ndarray, "S"]]:
    """Yield the sound of the best stream from time 0 of the file on, mono, in [-1, 1]."""
    with open_media(path) as container:
        stream = best_stream(path, container, "audio")
        if stream is None:
            return
        reader = AudioReader(FrameReader(container, stream, []).read(), 0.0)
        resampler = av.AudioResampler("s16", "mono", SOUND_RATE_HZ)
        while len(samples := reader.read(READ_SAMPLES).samples):
            frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
            frame.sample_rate = AUDIO_RATE_HZ
            yield _join(resampler.resample(frame))
        yield _join(resampler.resample(None))


def _join(frames: list[av.AudioFrame]) -> Float32[np.ndarray, "S"]:
    parts = [frame.to_ndarray()[0].astype(np.float32) / 32768 for frame in frames]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
