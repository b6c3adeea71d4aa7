"""The text tower: word vectors in a T5-style encoder with relative positions (VATT section 3.2)."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vatt.models.transformer import T5, Dense, Encoder, draw_agg_token, prepend_agg_token
from vatt.params import TOWER_SIZES, TowerSize

PADDING_ID = 0
MASKED_SCORE = -1e9


class TextSize(NamedTuple):
    """Size of a text tower and of its relative positions."""

    encoder: TowerSize
    num_buckets: int = 32
    max_distance: int = 64


# One layer is enough for the demo's sentences; with three it learned them by heart.
TEXT_SIZES = {
    "tiny": TextSize(TOWER_SIZES["tiny"]._replace(num_layers=1)),
    "small": TextSize(TOWER_SIZES["small"]),
}


class TextTower(nn.Module):
    """Encodes token ids; the AGG token stands first, with the width of a word vector."""

    def __init__(
        self, vocab_size: int, word_width: int, size: TextSize, dropout_rate: float
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, word_width)
        nn.init.normal_(self.words.weight, std=word_width**-0.5)
        self.agg_token = nn.Parameter(torch.empty(word_width))
        draw_agg_token(self.agg_token)
        self.projection = Dense(word_width, size.encoder.width, bias=False)
        self.relative_bias = RelativeBias(size)
        self.dropout = nn.Dropout(dropout_rate)
        self.encoder = Encoder(size.encoder, dropout_rate, T5)

    def forward(
        self, ids: Int[Tensor, "B L"], *, all_tokens: bool = False
    ) -> Float[Tensor, "B Q D"]:
        """Return the encoded AGG token (Q = 1), or `all_tokens` with AGG first.

        Padding (id 0) is not attended to; a text of padding only is encoded from AGG alone.
        """
        tokens = prepend_agg_token(self.agg_token, self.words(ids))
        tokens = self.dropout(functional.gelu(self.projection(tokens)))
        is_padding = functional.pad(ids == PADDING_ID, (1, 0))
        padding_bias = is_padding[:, None, None, :].to(tokens.dtype) * MASKED_SCORE
        score_bias = self.relative_bias(tokens.shape[1]) + padding_bias
        encoded: Tensor = self.encoder(tokens, score_bias, all_tokens=all_tokens)
        return encoded


class RelativeBias(nn.Module):
    """What each head adds to a score for the distance of key from query; one for all layers."""

    def __init__(self, size: TextSize) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = size.num_buckets, size.max_distance
        self.table = nn.Embedding(size.num_buckets, size.encoder.num_heads)
        nn.init.uniform_(self.table.weight, -0.05, 0.05)

    def forward(self, num_tokens: int) -> Float[Tensor, "N L L"]:
        """Return the bias for every head, query and key."""
        places = torch.arange(num_tokens, device=self.table.weight.device)
        offsets = places - places[:, None]
        buckets = relative_buckets(offsets, self.num_buckets, self.max_distance)
        bias: Tensor = self.table(buckets).permute(2, 0, 1)
        return bias


def relative_buckets(
    offsets: Int[Tensor, "*shape"], num_buckets: int, max_distance: int
) -> Int[Tensor, "*shape"]:
    """Return the T5 bucket of each offset (place of the key minus place of the query).

    Half of the buckets serve each direction. Of a half, the first half hold one distance each,
    the others grow by a constant factor up to `max_distance`; the last one holds all beyond.
    """
    per_side = num_buckets // 2
    num_exact = per_side // 2
    distances = offsets.abs()
    growth = (distances.clamp(min=num_exact).double() / num_exact).log()
    growth = growth / math.log(max_distance / num_exact) * (per_side - num_exact)
    distant = (num_exact + growth.long()).clamp(max=per_side - 1)
    buckets = torch.where(distances < num_exact, distances, distant)
    return torch.where(offsets > 0, buckets + per_side, buckets)
