"""Student's t against a closed form, a slow loop, and how often it holds the truth."""

import math
from statistics import mean, stdev

import numpy as np
import pytest

from vatt.tables.intervals import summarise


def test_three_degrees_of_freedom_against_published_quantiles() -> None:
    """0.975 quantiles of Student's t as printed in every table: 12.706, 4.303, 3.182, 2.776."""
    for num_values, quantile in ((2, 12.706), (3, 4.303), (4, 3.182), (5, 2.776)):
        values = [0.1 * number**2 for number in range(num_values)]
        summary = summarise(values)
        half = quantile * stdev(values) / math.sqrt(num_values)
        assert summary.mean == pytest.approx(mean(values))
        assert summary.deviation == pytest.approx(stdev(values))
        ends = (mean(values) - half, mean(values) + half)
        assert summary.interval == pytest.approx(ends, abs=1e-3)


def test_equal_values_have_no_width() -> None:
    assert summarise([0.0, 0.0, 0.0]).interval == (0.0, 0.0)


def test_it_holds_the_truth_95_times_of_100() -> None:
    draws = np.random.default_rng(0).normal(0.3, 2.0, (4000, 5))
    intervals = [summarise(row).interval for row in draws.tolist()]
    held = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert held == pytest.approx(0.95, abs=0.012)
