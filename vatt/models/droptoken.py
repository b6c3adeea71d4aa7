"""DropToken: in training, a random share of the patches is left out (VATT section 3.1.1)."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class DropToken(nn.Module):
    """Leaves out a share `rate` of the patches in training, and nothing in evaluation.

    With `draw` "batch" all clips of a batch (on one rank) keep the same places, as released.
    Differs from that with "clip": each clip draws its own, so that no place is missing from a
    whole batch.
    """

    def __init__(self, rate: float, draw: Literal["clip", "batch"]) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_token_rate = {rate}: expected 0 <= rate < 1")
        self.rate, self.draw = rate, draw

    def forward(
        self, patches: Float[Tensor, "B L K"], positions: Float[Tensor, "L D"]
    ) -> tuple[Float[Tensor, "B M K"], Float[Tensor, "*#B M D"]]:
        """Return the patches that are kept and their positions."""
        if not self.training or self.rate == 0:
            return patches, positions
        num_draws = len(patches) if self.draw == "clip" else 1
        kept = draw_kept(num_draws, patches.shape[1], self.rate, patches.device)
        return select_kept(patches, kept.expand(len(patches), -1)), positions[kept]


def draw_kept(
    batch_size: int, num_tokens: int, drop_token_rate: float, device: torch.device
) -> Int[Tensor, "B K"]:
    """Draw which tokens each clip keeps, `count_kept` of them, unordered."""
    num_kept = count_kept(num_tokens, drop_token_rate)
    return torch.rand(batch_size, num_tokens, device=device).topk(num_kept).indices


def count_kept(num_tokens: int, drop_token_rate: float) -> int:
    """Return how many of `num_tokens` are left in training: at least one, all of them at rate 0."""
    return max(1, round(num_tokens * (1 - drop_token_rate)))


def select_kept(
    patches: Float[Tensor, "B L K"], kept: Int[Tensor, "B M"]
) -> Float[Tensor, "B M K"]:
    """Return the kept patches of each clip."""
    clips = torch.arange(len(patches), device=patches.device)[:, None]
    return patches[clips, kept]
