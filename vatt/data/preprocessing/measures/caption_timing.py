"""When captions are shown, against when speech is heard: how late they are, and how surely.

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
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vatt.data.captions import Caption
from vatt.data.preprocessing.measures.speech import FRAME_S

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


class CaptionTiming(NamedTuple):
    """How the captions of a file lie in time; rounded, so that no last bit of a machine shows."""

    offset_s: float
    """How much later than the speech they are; NaN without captions or without speech."""
    score: float
    """0: no better than captions of another video; 1: the same as the speech. NaN: cannot tell."""


UNKNOWN = CaptionTiming(math.nan, math.nan)


def estimate_timing(speech: Track, captions: Sequence[Caption]) -> CaptionTiming:
    """Compare captions with the probability of speech in every 32 ms from the start of a file on."""
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
    """Return the standard deviation of the correlation of two such tracks that do not belong together.

    Infinite if one of them does not change.
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
