"""Positions: the spline against scipy's, the sum against single grid places."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from vatt.model.stem import Positions, PositionTable, spline_matrix


@pytest.mark.parametrize(
    ("num_knots", "num_queries"),
    [(8, 16), (14, 20), (14, 24), (4, 3), (3, 5), (2, 5), (20, 14), (1200, 1500)],
)
def test_spline_is_natural_and_goes_on_straight(num_knots: int, num_queries: int) -> None:
    values = np.random.default_rng(0).normal(size=(num_knots, 3))
    knots = np.arange(num_knots) / num_knots
    queries = np.arange(num_queries) / num_queries
    spline = CubicSpline(knots, values, bc_type="natural")
    beyond = np.clip(queries - knots[-1], 0, None)[:, None]
    expected = spline(np.minimum(queries, knots[-1])) + beyond * spline(knots[-1], nu=1)
    assert spline_matrix(num_knots, num_queries).numpy() @ values == pytest.approx(
        expected, abs=1e-9
    )


def test_one_place_serves_any_number() -> None:
    table = PositionTable(1, 4)
    assert torch.equal(table(5), table.table.expand(5, 4))


def test_first_place_of_a_shorter_axis_is_the_first_of_the_table() -> None:
    """An image is one temporal patch: its position is row 0 exactly (fine-tuning on images)."""
    table = PositionTable(8, 4)
    torch.testing.assert_close(table(1), table.table[:1], rtol=0, atol=1e-6)


def test_places_are_sums_of_their_axes_then_normalised() -> None:
    positions = Positions((2, 3, 4), width=8)
    tables = [positions.get_parameter(f"tables.{axis}.table") for axis in range(3)]
    result = positions((2, 3, 4)).view(2, 3, 4, 8)
    for t, h, w in [(0, 0, 0), (1, 2, 3), (0, 2, 1)]:
        place = tables[0][t] + tables[1][h] + tables[2][w]
        expected = (place - place.mean()) / (place.var(unbiased=False) + 1e-6).sqrt()
        torch.testing.assert_close(result[t, h, w], expected, rtol=1e-4, atol=1e-5)


def test_stretched_tables_still_learn() -> None:
    positions = Positions((2, 3), width=8)
    weights = torch.randn(20, 8)
    (positions((4, 5)) * weights).sum().backward()
    for parameter in positions.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().min() > 0
