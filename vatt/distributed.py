"""The ranks of a training run: how many there are, and sums and gathers that pass exact gradients.

Without a process group there is one rank, and every function here returns what it was given.
"""

import torch
import torch.distributed
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.nn import functional


def rank() -> int:
    """Return the number of this process, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def all_gather_with_gradient(rows: Shaped[Tensor, "B *rest"]) -> Shaped[Tensor, "G *rest"]:
    """Return the rows of all ranks, in the order of the ranks; B must be the same on every rank.

    Backwards, a rank gets the SUM of the gradients that all ranks have for its rows.
    Floating-point rows only; masks are gathered as floats.
    """
    if world_size() == 1:
        return rows
    return torch.cat(functional.all_gather(rows))


def all_reduce_sum_with_gradient(values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the sum of `values` over all ranks; backwards, the gradients are summed as well."""
    if world_size() == 1:
        return values
    total: Tensor = functional.all_reduce(values)
    return total
