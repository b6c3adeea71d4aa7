"""The layers that all parts of the model are made of; on CPUs, what torch does slowly is done faster.

Numbers are the same as those of torch's own layers, but for the last digits and for which values
dropout leaves out. benchmarks/README.md says what each of the three is worth.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

RESOLUTION = 2**16
"""Steps in which the rate of dropout is held on CPUs."""


class Dense(nn.Linear):
    """A linear layer with the original's initial weights: Glorot-uniform, zero bias."""

    num_fused = 1

    def reset_parameters(self) -> None:
        """Draw the weights; layers that are fused into one are drawn each by itself."""
        for weight in self.weight.chunk(self.num_fused):
            nn.init.xavier_uniform_(weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows E"]:  # noqa: A002 - nn.Linear's
        """Multiply by the weights and add the bias."""
        if _uses_onednn(input, self.weight):
            product: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return product
        return super().forward(input)


class FusedPair(Dense):
    """Two Dense layers of the same width computed as one; the outputs lie side by side."""

    num_fused = 2


class Dropout(nn.Dropout):
    """Sets a share of the values to zero in training, and scales the others up."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:  # noqa: A002 - nn.Dropout's
        """Drop values out in training; return them as they are otherwise."""
        return drop_out(input, self.p) if self.training else input


def drop_out(values: Float[Tensor, "*shape"], rate: float) -> Float[Tensor, "*shape"]:
    """Set a share `rate` (0 to 1) of the values to zero, and scale the others to keep the mean.

    On CPUs torch draws a whole random number for each value; here one of 64 bits serves four.
    """
    num_steps = round(rate * RESOLUTION)
    if values.device.type != "cpu" or num_steps in (0, RESOLUTION):
        return functional.dropout(values, rate)
    words = torch.empty(-(-values.numel() // 4), dtype=torch.int64)
    # All 64 bits: without limits the sign would always be positive.
    words.random_(-(2**63), None)
    numbers = words.view(torch.int16)[: values.numel()].view(values.shape)
    is_kept = numbers >= num_steps - RESOLUTION // 2
    return values * is_kept.to(values.dtype).mul_(RESOLUTION / (RESOLUTION - num_steps))


def attend(
    query: Float[Tensor, "B N Q H"],
    key: Float[Tensor, "B N L H"],
    value: Float[Tensor, "B N L H"],
    score_bias: Float[Tensor, "#B #N #Q L"] | None,
    scale: float,
    dropout_rate: float,
) -> Float[Tensor, "B N Q H"]:
    """Return for each query the mean of the values, weighted by the softmax of its scores.

    A score is the product of query and key times `scale`, plus the bias; weights drop out.
    """
    if score_bias is not None:
        score_bias = score_bias.to(query.dtype)
    # On CPUs, torch's fused attention knows no dropout, and its gradient in bfloat16 is slow.
    is_slow = dropout_rate > 0 or (query.dtype == torch.bfloat16 and query.requires_grad)
    if query.device.type != "cpu" or not is_slow:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=score_bias, dropout_p=dropout_rate, scale=scale
        )
    scores = (query * scale) @ key.transpose(-1, -2)
    if score_bias is not None:
        scores = scores + score_bias
    return drop_out(scores.softmax(-1), dropout_rate) @ value


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


def _multiply(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return values times the transposed weight plus bias."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")  # noqa: SLF001
    return product


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
