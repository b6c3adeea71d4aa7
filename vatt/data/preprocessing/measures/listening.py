"""Listening: the sound of a file is heard once, at 16 kHz, for speech and for recognition."""

import math
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Float32, Int16

from vatt.data.preprocessing.measures.fingerprints import (
    BANDS_RATE_HZ,
    NOTHING,
    NUM_BANDS,
    BandMeter,
    hash_sound,
    seconds_within,
)
from vatt.data.preprocessing.measures.speech import FRAME_S, SPEECH_RATE_HZ, SpeechDetector
from vatt.params import AUDIO_RATE_HZ

SPEECH_THRESHOLD = 0.5
CHUNK_SAMPLES = 60 * AUDIO_RATE_HZ


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
        self._resampler = av.AudioResampler("s16", "mono", SPEECH_RATE_HZ)
        self._detector, self._meter = SpeechDetector(), BandMeter()
        self._speech: list[Float32[np.ndarray, "T"]] = []
        self._hashes: list[str] = []
        self._bands = np.zeros((0, NUM_BANDS), np.float32)  # those that no hash is past yet
        self._num_samples = 0

    def hear(self, start_s: float, samples: Int16[np.ndarray, "S"]) -> None:
        """Hear a piece at 48 kHz that starts at a time of the file."""
        num_missing = round(start_s * AUDIO_RATE_HZ) - self._num_samples
        while num_missing > 0:
            silence = np.zeros(min(num_missing, CHUNK_SAMPLES), np.int16)
            self._hear(silence)
            num_missing -= len(silence)
        self._hear(samples)

    def _hear(self, samples: Int16[np.ndarray, "S"]) -> None:
        self._num_samples += len(samples)
        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate = AUDIO_RATE_HZ
        self._take(self._resampler.resample(frame))

    def _take(self, frames: list[av.AudioFrame]) -> None:
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
        self._take(self._resampler.resample(None))
        self._speech.append(self._detector.finish())
        return Heard(np.concatenate(self._speech), self._hashes)
