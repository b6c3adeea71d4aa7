"""The Transformer encoder of all towers: pre-norm attention and MLP blocks (VATT section 3.2).

Weights against the original: `query` is `q`; rows of `key_value` are `k`, then `v`; a Dense
kernel is the transpose of a weight.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vatt.models.layers import Dense, Dropout, FusedPair, attend
from vatt.params import TowerSize

NORM_EPSILON = 1e-6


class Style(NamedTuple):
    """What differs between the encoders of the paper."""

    norm: type[nn.LayerNorm | nn.RMSNorm]
    """The norm before attention and at the end; the one before the MLP is always a LayerNorm."""
    has_bias: bool
    scales_attention: bool
    """Whether attention scores are divided by the root of the head width."""


STANDARD = Style(norm=nn.LayerNorm, has_bias=True, scales_attention=True)
UNBIASED = Style(norm=nn.LayerNorm, has_bias=False, scales_attention=True)
"""Of the original's spectrogram tower."""
T5 = Style(norm=nn.RMSNorm, has_bias=False, scales_attention=False)


class Group(NamedTuple):
    """Sequences of one length, each of which attends within itself."""

    tokens: Float[Tensor, "B L D"]
    score_bias: Float[Tensor, "#B #N #L L"] | None = None
    """Added to the attention scores."""


class Layout(NamedTuple):
    """Where the sequences of several groups lie in one row of M tokens, without padding between."""

    shapes: tuple[tuple[int, int], ...]
    """Number and length of the sequences of each group."""
    score_biases: tuple[Tensor | None, ...]

    def split(self, row: Float[Tensor, "M C"]) -> list[Float[Tensor, "B L C"]]:
        """Return the tokens of each group, as views."""
        parts = row.split([number * length for number, length in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def keep_agg(self) -> "Layout":
        """Return the layout of the first token of every sequence."""
        shapes = tuple((number, 1) for number, _ in self.shapes)
        biases = (None if bias is None else bias[:, :, :1] for bias in self.score_biases)
        return Layout(shapes, tuple(biases))


class Attention(nn.Module):
    """Multi-head attention of tokens to the tokens of their sequence."""

    def __init__(self, size: TowerSize, dropout_rate: float, style: Style) -> None:
        super().__init__()
        inner = size.num_heads * size.head_width
        self.num_heads = size.num_heads
        self.dropout_rate = dropout_rate
        self.scale = size.head_width**-0.5 if style.scales_attention else 1.0
        self.query = Dense(size.width, inner, bias=style.has_bias)
        self.key_value = FusedPair(size.width, 2 * inner, bias=style.has_bias)
        self.output = Dense(inner, size.width, bias=style.has_bias)

    def forward(
        self, tokens: Float[Tensor, "M D"], layout: Layout, *, agg_only: bool
    ) -> Float[Tensor, "Q D"]:
        """Let all tokens, or with `agg_only` the first of every sequence, attend to their sequence."""
        outputs = layout.keep_agg() if agg_only else layout
        query = self.query(take_agg(tokens, layout) if agg_only else tokens)
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        attended = [
            attend(
                self._split_heads(queries),
                self._split_heads(keys),
                self._split_heads(values),
                bias,
                self.scale,
                self.dropout_rate if self.training else 0.0,
            )
            for queries, keys, values, bias in zip(
                outputs.split(query),
                layout.split(key),
                layout.split(value),
                outputs.score_biases,
                strict=True,
            )
        ]
        mixed: Tensor = self.output(pack([heads.transpose(1, 2).flatten(2) for heads in attended]))
        return mixed

    def _split_heads(self, tokens: Float[Tensor, "B L C"]) -> Float[Tensor, "B N L H"]:
        return tokens.view(*tokens.shape[:-1], self.num_heads, -1).transpose(1, 2)


class Block(nn.Module):
    """Attention, then an MLP with exact GELU, each added to its input."""

    def __init__(self, size: TowerSize, dropout_rate: float, style: Style) -> None:
        super().__init__()
        self.attention_norm = style.norm(size.width, eps=NORM_EPSILON)
        self.attention = Attention(size, dropout_rate, style)
        self.mlp_norm = nn.LayerNorm(size.width, eps=NORM_EPSILON)
        self.mlp = nn.Sequential(
            Dense(size.width, size.mlp_width, bias=style.has_bias),
            nn.GELU(),
            Dropout(dropout_rate),
            Dense(size.mlp_width, size.width, bias=style.has_bias),
        )
        self.dropout = Dropout(dropout_rate)

    def forward(
        self, tokens: Float[Tensor, "M D"], layout: Layout, *, agg_only: bool = False
    ) -> Float[Tensor, "Q D"]:
        """Return all tokens after the block, or with `agg_only` the first of every sequence.

        The others then cost only their keys and values.
        """
        attended = self.attention(self.attention_norm(tokens), layout, agg_only=agg_only)
        if agg_only:
            tokens = take_agg(tokens, layout)
        tokens = tokens + self.dropout(attended)
        transformed: Tensor = self.dropout(self.mlp(self.mlp_norm(tokens)))
        return tokens + transformed


class Encoder(nn.Module):
    """A stack of blocks and a last norm; knows nothing of the modality.

    With `recomputes`, training keeps only what enters each block, and computes the rest again in
    the backward pass: less memory for a third more time.
    """

    def __init__(self, size: TowerSize, dropout_rate: float, style: Style = STANDARD) -> None:
        super().__init__()
        self.width = size.width
        blocks = (Block(size, dropout_rate, style) for _ in range(size.num_layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = style.norm(size.width, eps=NORM_EPSILON)
        self.dropout = Dropout(dropout_rate)
        self.recomputes = False

    def forward(
        self, groups: Sequence[Group], *, all_tokens: bool = False
    ) -> list[Float[Tensor, "B Q D"]]:
        """Encode the sequences of all groups; return of each the first (AGG) token, or `all_tokens`.

        All groups go through in one pass, without padding, and the results are those of one pass
        for each. Of the last block only the wanted outputs are computed, which changes nothing
        else: with few layers that is a good part of the whole cost.
        """
        layout = Layout(
            tuple((group.tokens.shape[0], group.tokens.shape[1]) for group in groups),
            tuple(group.score_bias for group in groups),
        )
        tokens = pack([group.tokens for group in groups])
        for index, block in enumerate(self.blocks):
            agg_only = index == len(self.blocks) - 1 and not all_tokens
            if self.recomputes and self.training:
                tokens = checkpoint(block, tokens, layout, agg_only=agg_only, use_reentrant=False)
            else:
                tokens = block(tokens, layout, agg_only=agg_only)
        encoded = self.dropout(self.norm(tokens))
        return (layout if all_tokens else layout.keep_agg()).split(encoded)


def pack(groups: Sequence[Float[Tensor, "_ _ C"]]) -> Float[Tensor, "M C"]:
    """Put the tokens of all groups into one row, clip after clip; one group is not copied."""
    rows = [tokens.flatten(0, 1) for tokens in groups]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def take_agg(tokens: Float[Tensor, "M C"], layout: Layout) -> Float[Tensor, "Q C"]:
    """Return the first token of every sequence."""
    return torch.cat([group[:, 0] for group in layout.split(tokens)])
