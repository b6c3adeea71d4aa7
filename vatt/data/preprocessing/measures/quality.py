"""How much of a segment's sound is silent or clipped, and of its picture black or frozen."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int16

from vatt.data.video import Picture
from vatt.params import AUDIO_RATE_HZ

SILENT_WINDOW_SAMPLES = AUDIO_RATE_HZ // 50
SILENT_AMPLITUDE = 32768 * 10 ** (-60 / 20)
CLIPPED_AMPLITUDE = round(0.99 * 32768)
"""Not all of full scale: resampling bends the flat tops of clipped sound."""
BLACK_LUMA = 16.0
LUMA = np.array([0.299, 0.587, 0.114])
NOISE = 8
"""So much, of 255, pixels of a still picture may differ after coding."""
MAX_MOVING_RATE = 0.001
"""More pixels than this beyond the noise are a change of the picture."""


def measure_silence(samples: Int16[np.ndarray, "S"]) -> float:
    """Return the share of windows of 20 ms (the last may be shorter) below -60 dBFS; NaN if empty."""
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
    """Return the mean luma; much faster than the mean of floats, and this is done for all frames."""
    sums = picture.transpose(2, 0, 1).sum(axis=(1, 2), dtype=np.uint32)
    luma: float = sums @ LUMA / (picture.size / 3)
    return luma


def measure_freezing(pictures: Sequence[Picture]) -> float:
    """Return the share of frames, but the first, that equal the one before; NaN below two frames.

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
