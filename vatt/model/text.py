"""Text towers: word vectors with relative positions (T5), with absolute ones (BERT), or with none.

VATT section 3.2 has T5; the others are options of the original.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vatt.model.stem import AggToken, Positions
from vatt.model.transformer import MASKED_SCORE, Dense, Dropout, Group

PADDING_ID = 0


class Words(nn.Embedding):
    """The word table: one vector for each id."""

    def reset_parameters(self) -> None:
        """Draw the vectors; about as long as those of word2vec."""
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)


class T5Stem(nn.Module):
    """Token ids to tokens; the AGG token stands first, with the width of a word vector."""

    def __init__(
        self, words: Words, width: int, relative_bias: "RelativeBias", dropout_rate: float
    ) -> None:
        super().__init__()
        self.words = words
        self.agg_token = AggToken(words.embedding_dim)
        self.projection = Dense(words.embedding_dim, width, bias=False)
        self.relative_bias = relative_bias
        self.dropout = Dropout(dropout_rate)

    def forward(self, ids: Int[Tensor, "B L"]) -> Group:
        """Return tokens and score biases. Padding (id 0) is not attended to; AGG always is."""
        tokens = self.agg_token(self.words(ids))
        tokens = self.dropout(functional.gelu(self.projection(tokens)))
        bias = self.relative_bias(tokens.shape[1]) + mask_padding(ids, tokens.dtype)
        return Group(tokens, bias)


class BertStem(nn.Module):
    """Token ids to tokens with learned absolute positions; the AGG token stands first.

    For texts longer than its table the positions are stretched by a spline, as for large pictures.
    Differs from the original's BERT tower, which adds the AGG token twice; the text of the
    original VATT-MA has one, and a bias in the projection.
    """

    def __init__(
        self, words: Words, positions: Positions, projection: Dense, dropout_rate: float
    ) -> None:
        super().__init__()
        self.words = words
        self.projection = projection
        self.positions = positions
        self.dropout = Dropout(dropout_rate)
        self.agg_token = AggToken(projection.out_features)

    def forward(self, ids: Int[Tensor, "B L"]) -> Group:
        """Return tokens and score biases. Padding (id 0) is not attended to; AGG always is."""
        tokens = functional.gelu(self.projection(self.words(ids)))
        tokens = self.dropout(tokens + self.positions((ids.shape[1],)))
        return Group(self.agg_token(tokens), mask_padding(ids, tokens.dtype))


class LinearText(nn.Module):
    """The largest over the words of a linear layer with ReLU, as in MIL-NCE and MMV.

    Differs from both: padding is left out, and a text of padding only is 0.
    """

    def __init__(self, words: Words) -> None:
        super().__init__()
        self.words = words
        self.width = 2048
        self.projection = Dense(words.embedding_dim, self.width)

    def forward(
        self, ids: Int[Tensor, "B L"], *, all_tokens: bool = False
    ) -> Float[Tensor, "B Q D"]:
        """Return the text (Q = 1), or with `all_tokens` the text, then its words."""
        words = functional.relu(self.projection(self.words(ids)))
        words = words * (ids != PADDING_ID)[..., None]
        text = words.amax(1, keepdim=True)  # after the ReLU no word is below the 0 of padding
        return torch.cat([text, words], dim=1) if all_tokens else text


def mask_padding(ids: Int[Tensor, "B L"], dtype: torch.dtype) -> Float[Tensor, "B 1 1 L+1"]:
    """Return the score bias that hides padding, for the AGG token and the words after it."""
    is_padding = functional.pad(ids == PADDING_ID, (1, 0))
    return is_padding[:, None, None, :].to(dtype) * MASKED_SCORE


class RelativeBias(nn.Module):
    """What each head adds to a score for the distance of key from query; one for all layers."""

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.table = nn.Embedding(num_buckets, num_heads)
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

    Each direction has half of the buckets. The first half of these hold one distance each, the
    others grow by a constant factor up to `max_distance`; the last one holds all beyond.
    """
    per_side = num_buckets // 2
    num_exact = per_side // 2
    distances = offsets.abs()
    growth = (distances.clamp(min=num_exact).double() / num_exact).log()
    growth = growth / math.log(max_distance / num_exact) * (per_side - num_exact)
    distant = (num_exact + growth.long()).clamp(max=per_side - 1)
    buckets = torch.where(distances < num_exact, distances, distant)
    return torch.where(offsets > 0, buckets + per_side, buckets)
