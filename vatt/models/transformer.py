"""The Transformer encoder of all towers: pre-norm attention and MLP blocks (VATT section 3.2).

Weights against the original: `query` is `q`; rows of `key_value` are `k`, then `v`; a Dense
kernel is the transpose of a weight.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

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
T5 = Style(norm=nn.RMSNorm, has_bias=False, scales_attention=False)


class Dense(nn.Linear):
    """A linear layer with the original's initial weights: Glorot-uniform, zero bias."""

    num_fused = 1

    def reset_parameters(self) -> None:
        """Draw the weights; layers that are fused into one are drawn each by itself."""
        for weight in self.weight.chunk(self.num_fused):
            nn.init.xavier_uniform_(weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class FusedPair(Dense):
    """Two Dense layers of the same width computed as one; the outputs lie side by side."""

    num_fused = 2


class Attention(nn.Module):
    """Multi-head attention of tokens to tokens."""

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
        self,
        tokens: Float[Tensor, "B L D"],
        num_queries: int,
        score_bias: Float[Tensor, "B N L L"] | None,
    ) -> Float[Tensor, "B Q D"]:
        """Let the first `num_queries` tokens attend to all; `score_bias` is added to the scores."""
        query = self.query(tokens[:, :num_queries])
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        if score_bias is not None:
            score_bias = score_bias[:, :, :num_queries].to(query.dtype)
        attended = functional.scaled_dot_product_attention(
            self._split_heads(query),
            self._split_heads(key),
            self._split_heads(value),
            attn_mask=score_bias,
            dropout_p=self.dropout_rate if self.training else 0.0,
            scale=self.scale,
        )
        mixed: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return mixed

    def _split_heads(self, tokens: Float[Tensor, "B L C"]) -> Float[Tensor, "B N L H"]:
        return tokens.view(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)


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
            nn.Dropout(dropout_rate),
            Dense(size.mlp_width, size.width, bias=style.has_bias),
        )
        self.dropout = nn.Dropout(dropout_rate)

    def forward(
        self,
        tokens: Float[Tensor, "B L D"],
        num_outputs: int,
        score_bias: Float[Tensor, "B N L L"] | None,
    ) -> Float[Tensor, "B Q D"]:
        """Return the first `num_outputs` tokens after the block; the others cost only their keys."""
        attended = self.attention(self.attention_norm(tokens), num_outputs, score_bias)
        tokens = tokens[:, :num_outputs] + self.dropout(attended)
        transformed: Tensor = self.dropout(self.mlp(self.mlp_norm(tokens)))
        return tokens + transformed


class Encoder(nn.Module):
    """A stack of blocks and a last norm; knows nothing of the modality."""

    def __init__(self, size: TowerSize, dropout_rate: float, style: Style = STANDARD) -> None:
        super().__init__()
        blocks = (Block(size, dropout_rate, style) for _ in range(size.num_layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = style.norm(size.width, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(
        self,
        tokens: Float[Tensor, "B L D"],
        score_bias: Float[Tensor, "B N L L"] | None = None,
        *,
        all_tokens: bool = False,
    ) -> Float[Tensor, "B Q D"]:
        """Encode tokens; return the first one (the AGG token), or `all_tokens`.

        Of the last block only the wanted outputs are computed, which changes nothing else:
        with few layers that is a good part of the whole cost.
        """
        num_tokens = tokens.shape[1]
        for index, block in enumerate(self.blocks):
            is_last = index == len(self.blocks) - 1
            num_outputs = 1 if is_last and not all_tokens else num_tokens
            tokens = block(tokens, num_outputs, score_bias)
        encoded: Tensor = self.dropout(self.norm(tokens))
        return encoded


def draw_agg_token(agg_token: Tensor) -> None:
    """Fill the AGG token (D,) with Glorot-normal numbers, as Keras draws them for a vector."""
    # Keras corrects the deviation for what it cuts off beyond two deviations.
    deviation = agg_token.shape[0] ** -0.5 / 0.87962566
    nn.init.trunc_normal_(agg_token, std=deviation, a=-2 * deviation, b=2 * deviation)


def prepend_agg_token(
    agg_token: Float[Tensor, "D"], tokens: Float[Tensor, "B L D"]
) -> Float[Tensor, "B L+1 D"]:
    """Put the AGG token before the tokens of every clip."""
    return torch.cat([agg_token.expand(len(tokens), 1, -1), tokens], dim=1)
