"""The stem of a tower: patchify -> drop -> tokens with positions and the AGG token (VATT section 3.1)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vatt.models.droptoken import DropToken
from vatt.models.layers import Dense, Dropout
from vatt.models.patches import Patches
from vatt.models.positions import Positions
from vatt.models.transformer import Group


class AggToken(nn.Module):
    """The learned token before all others, whose encoding is that of the whole (VATT eq. 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.empty(width))
        # Glorot-normal, as Keras draws it for a vector: it corrects the deviation for what is
        # cut off beyond two deviations.
        deviation = width**-0.5 / 0.87962566
        nn.init.trunc_normal_(self.vector, std=deviation, a=-2 * deviation, b=2 * deviation)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L+1 D"]:
        """Put the AGG token before the tokens of every clip; it has no position."""
        return torch.cat([self.vector.expand(len(tokens), 1, -1), tokens], dim=1)


class Stem(nn.Module):
    """Raw signals to tokens of `width` numbers.

    With `pre_projects` a linear layer with GELU follows the patches, as in VATT-MA.
    """

    def __init__(
        self,
        patches: Patches,
        positions: Positions,
        drop_token: DropToken,
        dropout_rate: float,
        *,
        pre_projects: bool = False,
    ) -> None:
        super().__init__()
        width = patches.projection.out_features
        self.patches = patches
        self.pre_projection = (
            nn.Sequential(Dense(width, width), nn.GELU()) if pre_projects else nn.Identity()
        )
        self.positions = positions
        self.drop_token = drop_token
        self.dropout = Dropout(dropout_rate)
        self.agg_token = AggToken(width)

    def forward(self, signal: Tensor) -> Group:
        """Return the tokens, AGG first.

        In training DropToken chooses patches before they are projected: a dropped one costs nothing.
        """
        patches = self.patches.cut(signal)
        positions = self.positions(patches.shape[1:-1])
        patches, positions = self.drop_token(patches.flatten(1, -2), positions)
        tokens = self.dropout(self.pre_projection(self.patches(patches)) + positions)
        # The AGG token comes after, so that it has no position and is never dropped.
        return Group(self.agg_token(tokens))
