"""Gathers and sums over real ranks: values, order and exact gradients."""

import torch
from torch import Tensor

from tests.ranks import Ranks
from vatt.core.distributed import (
    all_gather_with_gradient,
    all_reduce_sum_with_gradient,
    rank,
    world_size,
)


def gather_and_reduce() -> dict[str, Tensor]:
    rows = (torch.arange(4.0).view(2, 2) + 10 * rank()).requires_grad_()
    gathered = all_gather_with_gradient(rows)
    weights = torch.arange(8.0).view(4, 2) * (rank() + 1)
    (gather_gradient,) = torch.autograd.grad(gathered, rows, weights)
    # A gradient that is not contiguous in memory, as matrix products give it.
    (same,) = torch.autograd.grad(all_gather_with_gradient(rows), rows, weights.T.contiguous().T)
    assert torch.equal(same, gather_gradient)
    reduced = all_reduce_sum_with_gradient(rows)
    (reduce_gradient,) = torch.autograd.grad(reduced.sum() * (rank() + 1), rows)
    return {
        "gathered": gathered.detach(),
        "gather_gradient": gather_gradient,
        "reduced": reduced.detach(),
        "reduce_gradient": reduce_gradient,
    }


def test_two_ranks(two_ranks: Ranks) -> None:
    first, second = two_ranks.run(gather_and_reduce)
    rows = torch.tensor([[0.0, 1], [2, 3], [10, 11], [12, 13]])
    weights = torch.arange(8.0).view(4, 2)
    for result in (first, second):
        assert torch.equal(result["gathered"], rows)
        assert torch.equal(result["reduced"], rows[:2] + rows[2:])
        assert torch.equal(result["reduce_gradient"], torch.full((2, 2), 3.0))
    assert torch.equal(first["gather_gradient"], 3 * weights[:2])
    assert torch.equal(second["gather_gradient"], 3 * weights[2:])


def test_without_a_process_group_nothing_changes() -> None:
    rows = torch.randn(3, 2)
    assert (rank(), world_size()) == (0, 1)
    assert all_gather_with_gradient(rows) is rows
    assert all_reduce_sum_with_gradient(rows) is rows
