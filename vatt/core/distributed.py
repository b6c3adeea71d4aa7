"""The ranks of a training run: how many there are, and sums and gathers that pass exact gradients.

Without a process group there is one rank, and every function here returns its argument.
"""

from typing import Any

import torch
import torch.distributed
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd import Function
from torch.distributed.nn import functional


def rank() -> int:
    """Return the number of this process, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


_shared: torch.Generator | None = None


def seed_shared(seed: int, device: torch.device) -> None:
    """Set the seed of what all ranks draw alike; a process alone draws as torch was seeded."""
    global _shared  # noqa: PLW0603 - as torch keeps its own generators
    _shared = torch.Generator(device).manual_seed(seed) if world_size() > 1 else None


def rand_shared(num_rows: int, width: int, device: torch.device) -> Float[Tensor, "G N"]:
    """Return uniform random numbers, the same on every rank."""
    return torch.rand(num_rows, width, device=device, generator=_shared)


# Not compiled: through it, inductor's gradients are wrong with two ranks (torch 2.11): after one
# step the loss was off by 0.2 %. Around an eager one they are right.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def all_gather_with_gradient(rows: Shaped[Tensor, "B *rest"]) -> Shaped[Tensor, "G *rest"]:
    """Return the rows of all ranks, in the order of the ranks; B must be the same on every rank.

    In the backward pass a rank gets the SUM of the gradients that all ranks have for its rows.
    Only floating-point rows work; masks are gathered as floats.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _AllGather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


@torch.compiler.disable  # type: ignore[untyped-decorator]
def all_reduce_sum_with_gradient(values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the sum of `values` over all ranks; the backward pass sums the gradients as well."""
    if world_size() == 1:
        return values
    total: Tensor = functional.all_reduce(values)
    return total


class _AllGather(Function):
    """Written here because torch's own, with gloo, mixes up gradients that are not contiguous."""

    @staticmethod
    def forward(_context: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total.chunk(world_size())[rank()]
