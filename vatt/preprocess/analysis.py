"""What is measured of the pictures and the sound of a segment, and of the captions of a file.

Perceptual hashes say in 64 bits what a picture or a stretch of sound is like, to find it again.
That of a picture is the one of the library imagehash: the signs of the 64 slowest cosines. That of
a sound are the signs of 2 x 32 cosines, in time and in pitch, of the power in 32 bands during 3 s:
so slow in time that a copy that starts half a second later differs little. Equal content that was
coded, scaled or amplified in another way differs in few bits; other content in about 32. Hashes are
strings of 16 hexadecimal digits, one for each whole second of a file, in a row; sixteen zeros where
there is nothing to recognise.

The sound of a file is heard once, at 16 kHz, for its hashes and for speech: the probability that
silero-vad gives to every 32 ms. Captions are compared with the speech: how late they are (the
offset), and how surely (the score).

The offset is the lag L of -10 to 10 s at which the correlation r(L) of the probability of speech
s(t) with the captions c(t + L) is highest, where c is 1 while a caption is spoken and 0 elsewhere.
A caption stays on the screen after it has been spoken, so it counts for as long as its text takes
at the speed of this transcript: three of four captions show fewer characters per second.

The highest of so many correlations is not 0 for captions of another video either, the less so the
shorter the video. By Bartlett's formula r has, by chance, the standard deviation
sigma = sqrt((1 + 2 * sum over k of a_s(k) a_c(k)) / N), with the autocorrelations a of both tracks
up to 10 s and N frames. 3 sigma is what chance reaches, and the score is the part above it:
(r - 3 sigma) / (1 - 3 sigma), at least 0.
"""

import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import imagehash
import numpy as np
import onnxruntime
import scipy.fft
from jaxtyping import Float, Float32, Int16
from PIL import Image

from vatt.media.captions import Caption
from vatt.media.video import Picture
from vatt.params import AUDIO_RATE_HZ

HASH_DIGITS = 16
NOTHING = "0" * HASH_DIGITS
SOUND_RATE_HZ = 16_000
"""Sample rate of the sound that is hashed."""
BANDS_RATE_HZ = 16
"""Spectra per second."""
HOP_SAMPLES = SOUND_RATE_HZ // BANDS_RATE_HZ
SPECTRUM_SAMPLES = 4 * HOP_SAMPLES
NUM_BANDS = 32
LOWEST_HZ, HIGHEST_HZ = 150.0, 6000.0
WINDOW_FRAMES = 3 * BANDS_RATE_HZ

FRAME_SAMPLES = 512
FRAME_S = FRAME_SAMPLES / SOUND_RATE_HZ
CONTEXT_SAMPLES = 64
"""The samples before a frame that the network of silero-vad sees, too."""
MAX_FRAMES = 512
"""Frames computed at once, to bound memory."""
SPEECH_THRESHOLD = 0.5
CHUNK_SAMPLES = 60 * AUDIO_RATE_HZ
"""Silence that is heard at once, to bound memory."""

MAX_LAG = round(10.0 / FRAME_S)

Track = Float[np.ndarray, "T"]
WideTrack = Float[np.ndarray, "W"]
"""From 10 s before to 10 s after the file."""


def measure_silence(samples: Int16[np.ndarray, "S"]) -> float:
    """Return the share of 20 ms windows, the last maybe shorter, below -60 dBFS; NaN if empty."""
    if not len(samples):
        return math.nan
    starts = np.arange(0, len(samples), AUDIO_RATE_HZ // 50)
    energies = np.add.reduceat(samples.astype(np.float64) ** 2, starts)
    lengths = np.diff(np.append(starts, len(samples)))
    return float(np.mean(energies / lengths < (32768 * 10 ** (-60 / 20)) ** 2))


def measure_clipping(samples: Int16[np.ndarray, "S"]) -> float:
    """Return the share of samples at full scale, that is from 99 % of it on; NaN if empty."""
    if not len(samples):
        return math.nan
    # 16 bits hold no positive counterpart of -32768. It is not from 100 % of full scale on, because
    # resampling bends the flat tops of clipped sound.
    return float(np.mean(np.abs(samples.astype(np.int32)) >= round(0.99 * 32768)))


def measure_black(pictures: Sequence[Picture]) -> float:
    """Return the share of frames whose mean luma is below 16 of 255; NaN without frames."""
    if not pictures:
        return math.nan
    # From sums of whole numbers: the mean of floats is much slower.
    sums = [picture.transpose(2, 0, 1).sum(axis=(1, 2), dtype=np.uint32) for picture in pictures]
    weights = np.array([0.299, 0.587, 0.114])
    lumas = [s @ weights / (p.size / 3) for s, p in zip(sums, pictures, strict=True)]
    return float(np.mean([luma < 16 for luma in lumas]))


def measure_freezing(pictures: Sequence[Picture]) -> float:
    """Return the share of frames, after the first, that equal the one before; NaN below two frames.

    They are equal if at most one pixel of a thousand differs by more than 8 of 255 in green.
    """
    if len(pictures) < 2:
        return math.nan
    num_frozen = 0
    for before, after in pairwise(pictures):
        if before is after:  # shown for longer than the time between two frames
            num_frozen += 1
            continue
        green, other = before[..., 1], after[..., 1]
        difference = np.maximum(green, other) - np.minimum(green, other)  # bytes must not wrap
        # Coding alone moves the pixels of a still picture by up to 8.
        num_frozen += np.count_nonzero(difference > 8) <= 0.001 * difference.size
    return float(num_frozen / (len(pictures) - 1))


def seconds_within(start_s: float, end_s: float) -> range:
    """Return the whole seconds from a time on and before another, with a tolerance of 1 us."""
    return range(int(np.ceil(start_s - 1e-6)), int(np.ceil(end_s - 1e-6)))


def hash_picture(picture: Picture) -> str:
    """Return the hash of a picture; zeros if it is flat."""
    if picture.std() < 4:
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


class BandMeter:
    """Measures the power of a sound in bands, piece by piece: every 62.5 ms that of 250 ms."""

    def __init__(self) -> None:
        self._ahead = np.zeros(0, np.float32)
        self._window = np.hanning(SPECTRUM_SAMPLES).astype(np.float32)
        edges_hz = np.geomspace(LOWEST_HZ, HIGHEST_HZ, NUM_BANDS + 1)
        self._edges = np.round(edges_hz / SOUND_RATE_HZ * SPECTRUM_SAMPLES).astype(int)

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
        # Below this power, relative to full scale, differences are noise.
        return 10 * np.log10(bands + np.float32(1e-7))


def hash_sound(bands: Float[np.ndarray, "T B"]) -> list[str]:
    """Return the hash of the 3 s from each second of a file on, as far as there are so many."""
    hashes = []
    for begin in range(0, len(bands) - WINDOW_FRAMES + 1, BANDS_RATE_HZ):
        window = bands[begin : begin + WINDOW_FRAMES]
        cosines = scipy.fft.dctn(window - window.mean(), norm="ortho")[:2]
        is_flat = window.std() < 1  # decibel, as silence is
        hashes.append(NOTHING if is_flat else np.packbits(cosines > 0).tobytes().hex())
    return hashes


@cache
def _open_model() -> Any:
    """Open the network that is in the wheel of silero-vad, for many frames at once, on one thread.

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
        self._hidden = self._cell = np.zeros((1, 1, 128), np.float32)

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
        silences = (
            np.zeros(min(num_missing - begin, CHUNK_SAMPLES), np.int16)
            for begin in range(0, num_missing, CHUNK_SAMPLES)
        )
        for part in filter(len, chain(silences, [samples])):
            self._num_samples += len(part)
            frame = av.AudioFrame.from_ndarray(part[None], "s16", "mono")
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


class CaptionTiming(NamedTuple):
    """How the captions of a file lie in time; rounded, so that no last bit of a machine shows."""

    offset_s: float
    """How much later than the speech they are; NaN without captions or without speech."""
    score: float
    """0: no better than captions of another video; 1: the same as the speech. NaN: unknown."""


UNKNOWN = CaptionTiming(math.nan, math.nan)


def estimate_timing(speech: Track, captions: Sequence[Caption]) -> CaptionTiming:
    """Compare captions with the probability of speech in every 32 ms of a file."""
    shown = np.zeros(len(speech) + 2 * MAX_LAG)
    speeds = [len(caption.text) / (caption.end_s - caption.start_s) for caption in captions]
    speed = np.quantile(speeds, 0.75) if speeds else 1.0
    for caption in captions:
        spoken_s = min(caption.end_s - caption.start_s, len(caption.text) / speed)
        begin = round(caption.start_s / FRAME_S) + MAX_LAG
        end = round((caption.start_s + spoken_s) / FRAME_S) + MAX_LAG
        shown[max(0, begin) : max(0, end)] = 1.0
    if min((speech >= SPEECH_THRESHOLD).sum(), shown.sum()) * FRAME_S < 1.0:
        return UNKNOWN  # so little speech, or captions, cannot be compared
    correlations = _correlate(speech, shown)
    best = int(np.argmax(correlations))
    offset_s = round((best - MAX_LAG) * FRAME_S, 3)
    chance = 3 * _chance_deviation(speech, shown[MAX_LAG : MAX_LAG + len(speech)])
    if chance > 0.8:  # the video is too short, or too even
        return CaptionTiming(offset_s, math.nan)
    score = (correlations[best] - chance) / (1 - chance)
    return CaptionTiming(offset_s, round(max(0.0, float(score)), 3))


def _correlate(speech: Track, shown: WideTrack) -> Float[np.ndarray, "L"]:
    """Return Pearson's correlation at every lag; 0 where one of both does not change."""
    length = len(speech)
    centred = speech - speech.mean()
    size = 1 << (len(shown) - 1).bit_length()
    product = np.fft.rfft(shown, size) * np.conj(np.fft.rfft(centred, size))
    covariances = np.fft.irfft(product, size)[: 2 * MAX_LAG + 1]
    sums = np.cumsum(np.append(0.0, shown))
    means = (sums[length:] - sums[:-length]) / length
    norms = np.sqrt((centred @ centred) * length * means * (1 - means))  # shown is 0 or 1
    return np.where(norms > 1e-6, covariances / np.maximum(norms, 1e-6), 0.0)


def _chance_deviation(speech: Track, shown: Track) -> float:
    """Return the standard deviation of the correlation of such tracks of two different videos.

    It is infinite if one of them does not change.
    """
    if min(np.ptp(speech), np.ptp(shown)) < 1e-3:
        return math.inf
    product = np.ones(min(len(speech), MAX_LAG))
    for track in (speech, shown):
        spectrum = np.fft.rfft(track - track.mean(), 2 * len(track))
        covariances = np.fft.irfft(np.abs(spectrum) ** 2)[: len(product)]
        product = product * (covariances / covariances[0])  # the autocorrelation up to 10 s
    return math.sqrt(max(1.0, 1 + 2 * product[1:].sum()) / len(speech))
