"""What is measured of the pictures and the sound of a segment, and of the captions of a file.

A segment's sound may be silent or clipped, its picture black or frozen. Captions are compared with
the speech that is heard: how late they are (the offset), and how surely (the score).

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
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int16

from vatt.media.captions import Caption
from vatt.media.video import Picture
from vatt.params import AUDIO_RATE_HZ
from vatt.preprocess.listening import FRAME_S

SILENT_WINDOW_SAMPLES = AUDIO_RATE_HZ // 50
SILENT_AMPLITUDE = 32768 * 10 ** (-60 / 20)
CLIPPED_AMPLITUDE = round(0.99 * 32768)
"""Not all of full scale: resampling bends the flat tops of clipped sound."""
BLACK_LUMA = 16.0
LUMA = np.array([0.299, 0.587, 0.114])
NOISE = 8
"""How much, of 255, the pixels of a still picture may differ after coding."""
MAX_MOVING_RATE = 0.001
"""More pixels than this beyond the noise are a change of the picture."""

MAX_LAG = round(10.0 / FRAME_S)
SPEED_QUANTILE = 0.75
MIN_ACTIVE_S = 1.0
"""Below so much speech, or captions, there is nothing to compare."""
MAX_CHANCE = 0.8
"""Where chance alone reaches this, the video is too short, or too even, for a score."""
CHANCE_SIGMAS = 3.0

Track = Float[np.ndarray, "T"]
WideTrack = Float[np.ndarray, "W"]
"""From 10 s before to 10 s after the file."""


def measure_silence(samples: Int16[np.ndarray, "S"]) -> float:
    """Return the share of 20 ms windows, the last maybe shorter, below -60 dBFS; NaN if empty."""
    if not len(samples):
        return math.nan
    starts = np.arange(0, len(samples), SILENT_WINDOW_SAMPLES)
    energies = np.add.reduceat(samples.astype(np.float64) ** 2, starts)
    lengths = np.diff(np.append(starts, len(samples)))
    return float(np.mean(energies / lengths < SILENT_AMPLITUDE**2))


def measure_clipping(samples: Int16[np.ndarray, "S"]) -> float:
    """Return the share of samples at full scale, that is from 99 % of it on; NaN if empty."""
    if not len(samples):
        return math.nan
    num_clipped = np.count_nonzero(samples >= CLIPPED_AMPLITUDE)
    num_clipped += np.count_nonzero(samples <= -CLIPPED_AMPLITUDE)
    return num_clipped / len(samples)


def measure_black(pictures: Sequence[Picture]) -> float:
    """Return the share of frames whose mean luma is below 16 of 255; NaN without frames."""
    if not pictures:
        return math.nan
    return float(np.mean([_measure_luma(picture) < BLACK_LUMA for picture in pictures]))


def _measure_luma(picture: Picture) -> float:
    """Return the mean luma, for all frames, so not as the mean of floats, which is much slower."""
    sums = picture.transpose(2, 0, 1).sum(axis=(1, 2), dtype=np.uint32)
    luma: float = sums @ LUMA / (picture.size / 3)
    return luma


def measure_freezing(pictures: Sequence[Picture]) -> float:
    """Return the share of frames, after the first, that equal the one before; NaN below two frames.

    They are equal if at most one pixel of a thousand differs by more than 8 of 255 in green.
    """
    if len(pictures) < 2:
        return math.nan
    return float(np.mean([_is_equal(*pair) for pair in pairwise(pictures)]))


def _is_equal(before: Picture, after: Picture) -> bool:
    if before is after:  # shown for longer than the time between two frames
        return True
    green_before, green_after = before[..., 1], after[..., 1]
    difference = np.maximum(green_before, green_after) - np.minimum(green_before, green_after)
    num_moving = np.count_nonzero(difference > NOISE)
    return bool(num_moving <= MAX_MOVING_RATE * difference.size)


class CaptionTiming(NamedTuple):
    """How the captions of a file lie in time; rounded, so that no last bit of a machine shows."""

    offset_s: float
    """How much later than the speech they are; NaN without captions or without speech."""
    score: float
    """0: no better than captions of another video; 1: the same as the speech. NaN: unknown."""


UNKNOWN = CaptionTiming(math.nan, math.nan)


def estimate_timing(speech: Track, captions: Sequence[Caption]) -> CaptionTiming:
    """Compare captions with the probability of speech in every 32 ms of a file."""
    shown = _draw_captions(captions, len(speech))
    inside = shown[MAX_LAG : MAX_LAG + len(speech)]
    if min((speech >= 0.5).sum(), shown.sum()) * FRAME_S < MIN_ACTIVE_S:
        return UNKNOWN
    correlations = _correlate(speech, shown)
    best = int(np.argmax(correlations))
    offset_s = round((best - MAX_LAG) * FRAME_S, 3)
    chance = CHANCE_SIGMAS * _chance_deviation(speech, inside)
    if chance > MAX_CHANCE:
        return CaptionTiming(offset_s, math.nan)
    score = (correlations[best] - chance) / (1 - chance)
    return CaptionTiming(offset_s, round(max(0.0, float(score)), 3))


def _draw_captions(captions: Sequence[Caption], num_frames: int) -> WideTrack:
    """Return 1 where a caption is spoken and 0 elsewhere."""
    track = np.zeros(num_frames + 2 * MAX_LAG)
    speeds = [len(caption.text) / (caption.end_s - caption.start_s) for caption in captions]
    speed = np.quantile(speeds, SPEED_QUANTILE) if speeds else 1.0
    for caption in captions:
        spoken_s = min(caption.end_s - caption.start_s, len(caption.text) / speed)
        begin = round(caption.start_s / FRAME_S) + MAX_LAG
        end = round((caption.start_s + spoken_s) / FRAME_S) + MAX_LAG
        track[max(0, begin) : max(0, end)] = 1.0
    return track


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
    both = _autocorrelate(speech) * _autocorrelate(shown)
    return math.sqrt(max(1.0, 1 + 2 * both[1:].sum()) / len(speech))


def _autocorrelate(track: Track) -> Float[np.ndarray, "L"]:
    """Return the autocorrelation of a track that changes, up to 10 s."""
    centred = track - track.mean()
    spectrum = np.fft.rfft(centred, 2 * len(track))
    covariances = np.fft.irfft(np.abs(spectrum) ** 2)[: min(len(track), MAX_LAG)]
    autocorrelations: Float[np.ndarray, "L"] = covariances / covariances[0]
    return autocorrelations
