"""Listening: the sound of a file is heard once, at 16 kHz, for speech and for recognition.

Where somebody speaks: the probability that silero-vad gives to every 32 ms of a sound.

Perceptual hashes: what a picture or a stretch of sound looks like in 64 bits, to find it again.

That of a picture is the one of the library imagehash: the signs of the 64 slowest cosines. That of
a sound are the signs of 2 x 32 cosines, in time and in pitch, of the power in 32 bands during 3 s:
so slow in time that a copy that starts half a second later differs little. Equal content that was
coded, scaled or amplified in another way differs in few bits; other content in about 32.

Hashes are strings of 16 hexadecimal digits, one for each whole second of a file, in a row;
sixteen zeros where there is nothing to recognise.
"""

import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import av
import imagehash
import numpy as np
import onnxruntime
import scipy.fft
from jaxtyping import Float, Float32, Int16
from PIL import Image

from vatt.media.video import Picture
from vatt.params import AUDIO_RATE_HZ

SPEECH_RATE_HZ = 16_000
"""Sample rate that the model wants."""
FRAME_SAMPLES = 512
FRAME_S = FRAME_SAMPLES / SPEECH_RATE_HZ
CONTEXT_SAMPLES = 64
"""Samples before a frame that the model sees, too."""
MAX_FRAMES = 512
"""Frames computed at once, to bound memory."""
STATE_SHAPE = (1, 1, 128)


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


HASH_DIGITS = 16
NOTHING = "0" * HASH_DIGITS
MIN_CONTRAST = 4.0
"""Standard deviation, of 255; below it a picture is flat."""

BANDS_RATE_HZ = 16
"""Spectra per second."""
HOP_SAMPLES = SPEECH_RATE_HZ // BANDS_RATE_HZ
SPECTRUM_SAMPLES = 4 * HOP_SAMPLES
NUM_BANDS = 32
LOWEST_HZ, HIGHEST_HZ = 150.0, 6000.0
QUIET = 1e-7
"""Power of a band, relative to full scale, below which differences are noise."""
WINDOW_FRAMES = 3 * BANDS_RATE_HZ
MIN_DEVIATION = 1.0
"""Decibels; sound whose bands differ less, such as silence, is flat."""


def hash_picture(picture: Picture) -> str:
    """Return the hash of a picture; zeros if it is flat."""
    if picture.std() < MIN_CONTRAST:
        return NOTHING
    return str(imagehash.phash(Image.fromarray(picture)))


def hash_pictures(
    pictures: Sequence[Picture | None], start_s: float, frame_rate_hz: float
) -> list[str]:
    """Return the hash at each whole second of a file in a piece that starts at `start_s`."""
    seconds = seconds_within(start_s, start_s + len(pictures) / frame_rate_hz)
    places = [min(len(pictures) - 1, round((s - start_s) * frame_rate_hz)) for s in seconds]
    shown = [pictures[place] for place in places]
    return [NOTHING if picture is None else hash_picture(picture) for picture in shown]


def seconds_within(start_s: float, end_s: float) -> range:
    """Return the whole seconds from a time on and before another, with a tolerance of 1 us."""
    return range(int(np.ceil(start_s - 1e-6)), int(np.ceil(end_s - 1e-6)))


class BandMeter:
    """Measures the power of a sound in bands, piece by piece: every 62.5 ms that of 250 ms."""

    def __init__(self) -> None:
        self._ahead = np.zeros(0, np.float32)
        self._window = np.hanning(SPECTRUM_SAMPLES).astype(np.float32)
        edges_hz = np.geomspace(LOWEST_HZ, HIGHEST_HZ, NUM_BANDS + 1)
        self._edges = np.round(edges_hz / SPEECH_RATE_HZ * SPECTRUM_SAMPLES).astype(int)

    def hear(self, samples: Float32[np.ndarray, "S"]) -> Float32[np.ndarray, "T B"]:
        """Return the power of every band, in decibels, at all times that it is now known for."""
        ahead = np.concatenate([self._ahead, samples])
        num_frames = max(0, (len(ahead) - SPECTRUM_SAMPLES) // HOP_SAMPLES + 1)
        self._ahead = ahead[num_frames * HOP_SAMPLES :]
        if not num_frames:
            return np.zeros((0, NUM_BANDS), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(ahead, SPECTRUM_SAMPLES)[::HOP_SAMPLES]
        spectra = np.fft.rfft(frames[:num_frames] * self._window)
        powers = np.abs(spectra).astype(np.float32) ** 2 / SPECTRUM_SAMPLES**2
        bands = np.add.reduceat(powers, self._edges, axis=1)[:, :NUM_BANDS]
        return 10 * np.log10(bands + np.float32(QUIET))


def hash_sound(bands: Float[np.ndarray, "T B"]) -> list[str]:
    """Return the hash of the 3 s from each second of a file on, as far as there are so many."""
    last = len(bands) - WINDOW_FRAMES
    return [_hash_bands(bands[t : t + WINDOW_FRAMES]) for t in range(0, last + 1, BANDS_RATE_HZ)]


def _hash_bands(bands: Float[np.ndarray, "T B"]) -> str:
    if bands.std() < MIN_DEVIATION:
        return NOTHING
    cosines = scipy.fft.dctn(bands - bands.mean(), norm="ortho")[:2]
    return np.packbits(cosines > 0).tobytes().hex()


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
