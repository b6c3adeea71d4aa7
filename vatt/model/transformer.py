"""The Transformer encoder of all towers (VATT section 3.2), and the layers that it is made of.

On CPUs three of torch's layers are slow and computed in another way here: products in float32,
dropout, and attention with dropout or in bfloat16. The numbers are torch's but for the last digits
and for which values dropout leaves out; benchmarks/README.md says what each of the three is worth.

Names of weights here and in the original: `query` is `q`; the rows of `key_value` are `k`, then
`v`; a Dense kernel there is the transpose of a weight here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vatt.params import TowerSize

NORM_EPSILON = 1e-6
"""The original's, in every norm of a tower; torch's default is 1e-5."""
MASKED_SCORE = -1e9
"""A score that the softmax turns into 0. Not -inf: a row of nothing else would become NaN."""
DROPOUT_STEPS = 2**16
"""On CPUs the rate of dropout is rounded to a multiple of 1 / DROPOUT_STEPS."""


class Dense(nn.Linear):
    """A linear layer with the original's initial weights: Glorot-uniform, zero bias."""

    num_fused = 1

    def reset_parameters(self) -> None:
        """Draw the weights; layers that are fused into one are drawn each by itself."""
        for weight in self.weight.chunk(self.num_fused):
            nn.init.xavier_uniform_(weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Float[Tensor, "*rows E"]:  # noqa: A002 - nn.Linear's
        """Multiply by the weights and add the bias."""
        if not _uses_onednn(input, self.weight):
            return super().forward(input)
        product: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return product


class FusedPair(Dense):
    """Two Dense layers of the same width computed as one; the outputs lie side by side."""

    num_fused = 2


def _multiply(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return values times the transposed weight plus bias."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")  # noqa: SLF001
    return product


class _Product(torch.autograd.Function):
    """A linear layer in float32 by oneDNN.

    torch leaves such products to MKL, which uses half the width of the registers of AMD's cores.
    """

    @staticmethod
    def forward(context: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(values, weight)
        return _multiply(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = context.saved_tensors
        needs_values, needs_weight, needs_bias = context.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _multiply(gradient, weight.t(), None) if needs_values else None,
            _multiply(rows.t(), values.flatten(0, -2).t(), None) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


def _uses_onednn(values: Tensor, weight: Tensor) -> bool:
    return (
        values.device.type == "cpu"
        and values.dtype == weight.dtype == torch.float32
        and values.ndim > 1
        and values.numel() > 0
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # Inductor has a product of its own
    )


class Dropout(nn.Dropout):
    """Sets a share of the values to zero in training, and scales the others up."""

    def forward(self, input: Tensor) -> Float[Tensor, "*shape"]:  # noqa: A002 - nn.Dropout's
        """Drop values out in training; return them as they are otherwise."""
        return drop_out(input, self.p) if self.training else input


def drop_out(values: Float[Tensor, "*shape"], rate: float) -> Float[Tensor, "*shape"]:
    """Set a share `rate` (0 to 1) of the values to zero, and scale the others to keep the mean.

    On CPUs torch draws a whole random number for each value; here one of 64 bits serves four.
    """
    num_steps = round(rate * DROPOUT_STEPS)
    if values.device.type != "cpu" or num_steps in (0, DROPOUT_STEPS):
        return functional.dropout(values, rate)
    words = torch.empty(-(-values.numel() // 4), dtype=torch.int64)
    # Over all 64 bits: random_ without limits would always leave the sign positive.
    words.random_(-(2**63), None)
    numbers = words.view(torch.int16)[: values.numel()].view(values.shape)
    is_kept = numbers >= num_steps - DROPOUT_STEPS // 2
    return values * is_kept.to(values.dtype).mul_(DROPOUT_STEPS / (DROPOUT_STEPS - num_steps))


def attend(
    query: Float[Tensor, "B N Q H"],
    key: Float[Tensor, "B N L H"],
    value: Float[Tensor, "B N L H"],
    score_bias: Float[Tensor, "#B #N #Q L"] | None,
    scale: float,
    dropout_rate: float,
) -> Float[Tensor, "B N Q H"]:
    """Return for each query the mean of the values, weighted by the softmax of its scores.

    A score is the product of query and key times `scale`, plus the bias. After the softmax a share
    `dropout_rate` of the weights is dropped.
    """
    score_bias = None if score_bias is None else score_bias.to(query.dtype)
    # On CPUs torch's fused attention has no dropout, and its gradient in bfloat16 is slow.
    is_slow = dropout_rate > 0 or (query.dtype == torch.bfloat16 and query.requires_grad)
    if query.device.type != "cpu" or not is_slow:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=score_bias, dropout_p=dropout_rate, scale=scale
        )
    scores = (query * scale) @ key.transpose(-1, -2)
    scores = scores if score_bias is None else scores + score_bias
    return drop_out(scores.softmax(-1), dropout_rate) @ value


class Style(NamedTuple):
    """What differs between the encoders of the paper."""

    norm: type[nn.LayerNorm | nn.RMSNorm]
    """The norm before attention and at the end; the one before the MLP is always a LayerNorm."""
    has_bias: bool
    scales_attention: bool
    """Whether attention scores are divided by the root of the head width."""


STANDARD = Style(norm=nn.LayerNorm, has_bias=True, scales_attention=True)
UNBIASED = Style(norm=nn.LayerNorm, has_bias=False, scales_attention=True)
"""The style of the original's spectrogram tower."""
T5 = Style(norm=nn.RMSNorm, has_bias=False, scales_attention=False)


class Group(NamedTuple):
    """Sequences of one length, each of which attends within itself."""

    tokens: Float[Tensor, "B L D"]
    score_bias: Float[Tensor, "#B #N #L L"] | None = None
    """What is added to the attention scores."""


class Layout(NamedTuple):
    """Where the sequences of several groups lie in one row of M tokens, without padding between."""

    shapes: tuple[tuple[int, int], ...]
    """Number and length of the sequences of each group."""
    score_biases: tuple[Tensor | None, ...]

    def split(self, row: Float[Tensor, "M C"]) -> list[Float[Tensor, "B L C"]]:
        """Return the tokens of each group, as views of the row."""
        parts = row.split([number * length for number, length in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def take_agg(self, row: Float[Tensor, "M C"]) -> Float[Tensor, "Q C"]:
        """Return the first (AGG) token of every sequence."""
        return torch.cat([group[:, 0] for group in self.split(row)])

    def keep_agg(self) -> "Layout":
        """Return the layout of what `take_agg` returns."""
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
        """Let all tokens, or with `agg_only` the first of every sequence, attend to their own."""
        outputs = layout.keep_agg() if agg_only else layout
        query = self.query(layout.take_agg(tokens) if agg_only else tokens)
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        rate = self.dropout_rate if self.training else 0.0
        groups = zip(outputs.split(query), layout.split(key), layout.split(value), strict=True)
        attended = []
        for group, bias in zip(groups, outputs.score_biases, strict=True):
            heads = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in group]
            mean = attend(heads[0], heads[1], heads[2], bias, self.scale, rate)
            attended.append(mean.transpose(1, 2).flatten(2))
        mixed: Tensor = self.output(pack(attended))
        return mixed


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
        tokens = (layout.take_agg(tokens) if agg_only else tokens) + self.dropout(attended)
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
        """Return the first (AGG) token of each sequence of each group, or `all_tokens`.

        All groups pass at once, without padding, and the results are those of one pass for each.
        The last block computes only what is returned, which changes nothing else: with few layers
        that saves a good part of the whole cost.
        """
        shapes = tuple((len(group.tokens), group.tokens.shape[1]) for group in groups)
        layout = Layout(shapes, tuple(group.score_bias for group in groups))
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
