"""DropToken: in training, a random share of the patches is left out (VATT section 3.1.1)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def draw_kept(
    batch_size: int, num_tokens: int, drop_token_rate: float, device: torch.device
) -> Int[Tensor, "B K"]:
    """Draw which tokens each clip keeps: a share of 1 - `drop_token_rate`, at least one, unordered.

    Differs from the original, where all clips of a batch keep the same places: here each clip
    draws its own, so that no place is missing from a whole batch.
    """
    num_kept = max(1, round(num_tokens * (1 - drop_token_rate)))
    return torch.rand(batch_size, num_tokens, device=device).topk(num_kept).indices


def select_kept(
    patches: Float[Tensor, "B L K"], kept: Int[Tensor, "B M"]
) -> Float[Tensor, "B M K"]:
    """Return the kept patches of each clip."""
    clips = torch.arange(len(patches), device=patches.device)[:, None]
    return patches[clips, kept]
