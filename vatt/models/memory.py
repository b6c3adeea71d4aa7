"""What a rank of a training run holds in memory, by formula: state by ZeRO stage, and activations.

`python -m benchmarks.memory` compares both with what is counted in running processes.
"""

import math
from typing import Any, NamedTuple

from torch import nn

from vatt.models.accounting import Weights
from vatt.models.droptoken import count_kept
from vatt.models.text import BertStem, LinearText, T5Stem
from vatt.models.transformer import Encoder
from vatt.models.vatt import Vatt
from vatt.params import ClipParams

FLOAT_BYTES = 4
"""Weights, gradients and moments are float32, with bf16 products, too."""
BUCKET_BYTES = 200_000_000
"""What ranks exchange at once, under ZeRO 1 to 3."""


class Activations(NamedTuple):
    """Bytes that the forward pass of one clip leaves for the backward pass, on a GPU."""

    kept: int
    between: int
    """Where only what enters each block is kept, and the rest computed again."""
    again: int
    """The block that leaves most, computed again: then it is there besides."""
    clip: int
    """Its picture and sound."""


class _Row(NamedTuple):
    """Bytes that some tokens leave in an encoder."""

    entering: int
    """What enters one block."""
    block: int
    last: int
    """The last block: of all but the AGG tokens, only keys and values are computed."""


def estimate_state_bytes(weights: Weights, num_ranks: int, zero_stage: int) -> float:
    """Return the most bytes of weights, gradients and Adam's two moments that each rank holds.

    ZeRO 1 to 3 share out gradients, moments and a second copy of the weights, and have a bucket in
    which gradients are exchanged. Stage 1 frees gradients once they are exchanged, as stage 2 does.
    Stage 3 shares out the first copy, too, but between the forward and the backward pass each rank
    has it whole (up to 4 GB of it).
    """
    own, frozen = (float(FLOAT_BYTES * number) for number in weights)
    if zero_stage == 0:
        return frozen + 4 * own
    shared = own * 4 / num_ranks + own + frozen + BUCKET_BYTES
    return shared + (own + frozen) / num_ranks if zero_stage == 3 else shared


def estimate_activations(
    model: Vatt, clip: ClipParams, drop_token_rate: float, precision: str
) -> Activations:
    """Return what a clip with all its captions leaves; the model may be on the meta device.

    Left out is what is small: the heads, the scores of the loss, what belongs to AGG tokens alone.
    Attention keeps no scores, as on GPUs.
    """
    size = FLOAT_BYTES if precision == "fp32" else FLOAT_BYTES // 2
    before, rows = 0, []
    for tower in (model.video, model.audio):
        stem: Any = tower.stem
        num_patches = math.prod(len(table.table) for table in stem.positions.tables)
        num_kept = count_kept(num_patches, drop_token_rate)
        before += num_kept * _count_stem_bytes(stem, size)
        rows.append((tower.encoder, num_kept + 1))
    num_words = clip.num_candidates * clip.num_tokens
    stem = model.text if isinstance(model.text, LinearText) else model.text.stem
    before += num_words * _count_stem_bytes(stem, size)
    if not isinstance(model.text, LinearText):
        rows.append((model.text.encoder, num_words + clip.num_candidates))
    kept, entering, largest = before, before, 0
    for encoder, num_tokens in rows:
        row = _count_row(encoder, num_tokens, size)
        kept += (len(encoder.blocks) - 1) * row.block + row.last
        entering += len(encoder.blocks) * row.entering
        largest = max(largest, row.block)
    numbers = 3 * clip.num_frames * clip.frame_size_px**2 + clip.num_samples
    return Activations(kept, entering, largest, FLOAT_BYTES * numbers)


def _count_stem_bytes(stem: Any, size: int) -> int:
    """Return the bytes that one token leaves in a stem: what enters its linear layers and GELUs."""
    layers = [module for module in stem.modules() if isinstance(module, nn.Linear)]
    has_gelu = len(layers) > 1 or isinstance(stem, (T5Stem, BertStem))
    widths = [layer.in_features for layer in layers] + [layers[-1].out_features] * has_gelu
    return size * sum(widths) + _count_mask(layers[-1].out_features, stem)


def _count_row(encoder: Encoder, num_tokens: int, size: int) -> _Row:
    """Return what `num_tokens` leave in an encoder; `size` is that of a number in its products.

    In a block: what enters both norms (float32), what enters the products for the queries and for
    the keys and values (one tensor in float32, two copies otherwise), queries, keys, values, their
    mean, what enters the MLP, its GELU and its second product; a byte for what dropout left of each
    number.
    """
    block: Any = encoder.blocks[0]
    width, inner = encoder.width, block.attention.query.out_features
    mlp_width = block.mlp[0].out_features
    entering = FLOAT_BYTES * width
    normed = size * width
    before_attention = entering + (normed if size == FLOAT_BYTES else 2 * normed)
    attention = 4 * size * inner
    mlp = entering + normed + 2 * size * mlp_width
    masks = _count_mask(2 * width + mlp_width, encoder)
    last = entering + normed + 2 * size * inner
    whole = before_attention + attention + mlp + masks
    return _Row(num_tokens * entering, num_tokens * whole, num_tokens * last)


def _count_mask(width: int, module: Any) -> int:
    return width if module.dropout.p > 0 else 0
