"""Learned positions: one table per axis, summed and normalised (VATT section 3.1, eq. 1).

Other input sizes than the tables' are reached by a natural cubic spline (VATT section 4.1.3).
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vatt.models.transformer import NORM_EPSILON


class PositionTable(nn.Module):
    """One learned vector per place on one axis."""

    def __init__(self, num_places: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_places, width))
        deviation = width**-0.5
        nn.init.trunc_normal_(self.table, std=deviation, a=-2 * deviation, b=2 * deviation)

    def forward(self, num_places: int) -> Float[Tensor, "L D"]:
        """Return the table, stretched to `num_places` where that is not its own size."""
        if num_places == len(self.table):
            return self.table
        return spline_matrix(len(self.table), num_places).to(self.table) @ self.table


class Positions(nn.Module):
    """A position vector for every patch of a grid, the last axis running fastest.

    Differs from the paper, as the original does: a LayerNorm follows the sum of the tables.
    With `first_axis_fastest` the positions, not the patches, run the other way, so that a patch
    gets the vector of another place: the original does so for spectrograms.
    """

    def __init__(
        self, grid: Sequence[int], width: int, *, first_axis_fastest: bool = False
    ) -> None:
        super().__init__()
        self.first_axis_fastest = first_axis_fastest
        self.tables = nn.ModuleList(PositionTable(size, width) for size in grid)
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)

    def forward(self, grid: Sequence[int]) -> Float[Tensor, "L D"]:
        """Return positions of a grid of any size."""
        axes = [table(size) for table, size in zip(self.tables, grid, strict=True)]
        total, *others = reversed(axes) if self.first_axis_fastest else axes
        for places in others:
            total = total[..., None, :] + places
        positions: Tensor = self.norm(total.flatten(0, -2))
        return positions


@lru_cache(maxsize=32)
def spline_matrix(num_knots: int, num_queries: int) -> Float[Tensor, "Q K"]:
    """Return the float64 matrix that takes values at knots to a natural cubic spline at queries.

    Knots stand at i / num_knots, queries at j / num_queries. Beyond the last knot, where no more
    than a few queries lie, the spline goes on as a straight line.
    """
    identity = torch.eye(num_knots, dtype=torch.float64)
    curvatures = _curvatures(identity)
    places = torch.arange(num_queries, dtype=torch.float64) * num_knots / num_queries
    left = places.long().clamp(max=max(num_knots - 2, 0))
    right = (left + 1).clamp(max=num_knots - 1)
    after = (places - left).clamp(max=1)[:, None]
    before = 1 - after
    beyond = (places - (num_knots - 1)).clamp(min=0)[:, None]
    slope = identity[right] - identity[left] + (curvatures[left] + 2 * curvatures[right]) / 6
    return (
        before * identity[left]
        + after * identity[right]
        + (before**3 - before) * curvatures[left] / 6
        + (after**3 - after) * curvatures[right] / 6
        + beyond * slope
    )


def _curvatures(values: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
    """Return second derivatives at the knots (one apart) of the natural spline through `values`."""
    num_knots = len(values)
    curvatures = torch.zeros_like(values)
    if num_knots > 2:
        inner = torch.full((num_knots - 2,), 4.0, dtype=torch.float64)
        beside = torch.ones(num_knots - 3, dtype=torch.float64)
        system = torch.diag(inner) + torch.diag(beside, 1) + torch.diag(beside, -1)
        bends = 6 * (values[2:] - 2 * values[1:-1] + values[:-2])
        curvatures[1:-1] = torch.linalg.solve(system, bends)
    return curvatures
