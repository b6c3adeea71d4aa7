"""Listening: the sound of a file is heard once, at 16 kHz, for speech and for its hashes.

Speech is the probability that silero-vad gives to every 32 ms of a sound.
"""

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import onnxruntime
from jaxtyping import Float32, Int16

from vatt.params import AUDIO_RATE_HZ
from vatt.preprocess.hashes import (
    BANDS_RATE_HZ,
    NOTHING,
    NUM_BANDS,
    SOUND_RATE_HZ,
    BandMeter,
    hash_sound,
    seconds_within,
)

FRAME_SAMPLES = 512
FRAME_S = FRAME_SAMPLES / SOUND_RATE_HZ
CONTEXT_SAMPLES = 64
"""Samples before a frame that the model sees, too."""
MAX_FRAMES = 512
"""Frames computed at once, to bound memory."""
STATE_SHAPE = (1, 1, 128)
SPEECH_THRESHOLD = 0.5
CHUNK_SAMPLES = 60 * AUDIO_RATE_HZ
"""Silence that is heard at once, to bound memory."""


@cache
def _open_model() -> Any:
    """Open the model that is in the wheel of silero-vad, for many frames at once, on one thread.

    The package itself is not imported: it would take torch along, into every process.
    """
    package = find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ImportError("silero_vad is not installed")
    path = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class SpeechDetector:
    """Hears a sound piece by piece; what it finds does not depend on how the sound is cut."""

    def __init__(self) -> None:
        self._ahead = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._hidden = self._cell = np.zeros(STATE_SHAPE, np.float32)

    def hear(self, samples: Float32[np.ndarray, "S"]) -> Float32[np.ndarray, "T"]:
        """Return the probability of speech, in [0, 1], for every frame that has become full."""
        ahead = np.concatenate([self._ahead, samples])
        num_frames = (len(ahead) - CONTEXT_SAMPLES) // FRAME_SAMPLES
        self._ahead = ahead[num_frames * FRAME_SAMPLES :]
        if not num_frames:
            return np.zeros(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(ahead, CONTEXT_SAMPLES + FRAME_SAMPLES)
        frames = windows[::FRAME_SAMPLES]
        parts = []
        for start in range(0, num_frames, MAX_FRAMES):
            inputs = {"input": np.ascontiguousarray(frames[start : start + MAX_FRAMES])}
            inputs |= {"h": self._hidden, "c": self._cell}
            part, self._hidden, self._cell = _open_model().run(["speech_probs", "hn", "cn"], inputs)
            parts.append(part)
        return np.concatenate(parts)

    def finish(self) -> Float32[np.ndarray, "T"]:
        """Return the probability of the last frame, filled up with silence, if one has begun."""
        num_left = len(self._ahead) - CONTEXT_SAMPLES
        return self.hear(np.zeros(-num_left % FRAME_SAMPLES, np.float32))


class Heard(NamedTuple):
    """What a file's sound is, from the start of the file on."""

    speech: Float32[np.ndarray, "T"]
    """The probability of speech in every 32 ms."""
    hashes: list[str]
    """One for every second."""

    def measure_speech(self, start_s: float, end_s: float) -> float:
        """Return the share of a time in which somebody speaks; NaN where nothing was heard."""
        part = self.speech[round(start_s / FRAME_S) : round(end_s / FRAME_S)]
        return round(float(np.mean(part >= SPEECH_THRESHOLD)), 4) if len(part) else math.nan

    def cut_hashes(self, start_s: float, end_s: float) -> str:
        """Return the hashes of the seconds that begin in a time, in a row."""
        seconds = seconds_within(start_s, end_s)
        known = self.hashes[seconds.start : seconds.stop]
        return "".join(known) + NOTHING * (len(seconds) - len(known))


class Listener:
    """Hears the pieces of a file in order of time; gaps between them are silence."""

    def __init__(self) -> None:
        self._resampler = av.AudioResampler("s16", "mono", SOUND_RATE_HZ)
        self._detector, self._meter = SpeechDetector(), BandMeter()
        self._speech: list[Float32[np.ndarray, "T"]] = []
        self._hashes: list[str] = []
        self._bands = np.zeros((0, NUM_BANDS), np.float32)  # those that no hash is past yet
        self._num_samples = 0

    def hear(self, start_s: float, samples: Int16[np.ndarray, "S"]) -> None:
        """Hear a piece at 48 kHz that starts at a time of the file."""
        num_missing = round(start_s * AUDIO_RATE_HZ) - self._num_samples
        for begin in range(0, num_missing, CHUNK_SAMPLES):
            self._hear(np.zeros(min(num_missing - begin, CHUNK_SAMPLES), np.int16))
        self._hear(samples)

    def _hear(self, samples: Int16[np.ndarray, "S"]) -> None:
        self._num_samples += len(samples)
        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate = AUDIO_RATE_HZ
        self._measure(self._resampler.resample(frame))

    def _measure(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            sound = frame.to_ndarray()[0].astype(np.float32) / 32768
            self._speech.append(self._detector.hear(sound))
            self._bands = np.concatenate([self._bands, self._meter.hear(sound)])
        hashes = hash_sound(self._bands)
        self._hashes += hashes
        self._bands = self._bands[len(hashes) * BANDS_RATE_HZ :]

    def finish(self) -> Heard | None:
        """Return what was heard; None if there was no sound at all."""
        if not self._num_samples:
            return None
        self._measure(self._resampler.resample(None))
        self._speech.append(self._detector.finish())
        return Heard(np.concatenate(self._speech), self._hashes)
