"""A video or audio tower: patchify -> drop -> encode (VATT sections 3.1 and 3.2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vatt.models.droptoken import draw_kept, select_kept
from vatt.models.patches import Patches
from vatt.models.positions import Positions
from vatt.models.transformer import Encoder, draw_agg_token, prepend_agg_token


class Tower(nn.Module):
    """Encodes a raw signal; `grid` is the number of patches along each axis that training uses."""

    def __init__(
        self,
        patches: Patches,
        grid: Sequence[int],
        encoder: Encoder,
        dropout_rate: float,
        drop_token_rate: float,
    ) -> None:
        super().__init__()
        width = patches.projection.out_features
        self.patches = patches
        self.positions = Positions(grid, width)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout_rate)
        self.drop_token_rate = drop_token_rate
        self.agg_token = nn.Parameter(torch.empty(width))
        draw_agg_token(self.agg_token)

    def forward(self, signal: Tensor, *, all_tokens: bool = False) -> Float[Tensor, "B Q D"]:
        """Return the encoded AGG token (Q = 1), or `all_tokens` with AGG first.

        In training DropToken chooses patches before they are projected: a dropped one costs nothing.
        """
        patches = self.patches.cut(signal)
        positions = self.positions(patches.shape[1:-1])
        patches = patches.flatten(1, -2)
        if self.training and self.drop_token_rate > 0:
            kept = draw_kept(len(patches), patches.shape[1], self.drop_token_rate, patches.device)
            patches, positions = select_kept(patches, kept), positions[kept]
        # The AGG token comes after, so that it has no position and is never dropped.
        tokens = self.dropout(self.patches(patches) + positions)
        tokens = prepend_agg_token(self.agg_token, tokens)
        encoded: Tensor = self.encoder(tokens, all_tokens=all_tokens)
        return encoded
