"""Means over seeds, with Student's t; the unit is the seed, and only seeds are independent."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Summary(NamedTuple):
    """A number over seeds."""

    mean: float
    deviation: float
    """The standard deviation of one seed."""
    interval: tuple[float, float]
    """Covers the mean of all seeds with a probability of 95 %, if values are normal."""


def summarise(values: Sequence[float]) -> Summary:
    """Return mean, standard deviation and interval of one value for each seed, two or more."""
    mean, num_values = float(np.mean(values)), len(values)
    deviation = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, num_values - 1)) * deviation / num_values**0.5
    return Summary(mean, deviation, (mean - half, mean + half))
