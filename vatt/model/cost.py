"""What a model costs: its weights, and the FLOPs of one clip (VATT sections 4.2 and A.1).

A FLOP is one addition or multiplication, so that a multiply-add is two. Two conventions:

- `full`: every matrix product that the code computes, and nothing else. Dropped patches are not
  projected, of the last block only the AGG token is computed. It equals what torch's FLOP counter
  sees on the model.
- `paper`: what the profiler of TensorFlow counted for the paper. All patches are projected and all
  tokens pass all blocks; the product of queries and keys is left out; softmax and the scaling of
  scores count 6 for each score.

Norms, activations, biases, word look-ups and the loss are in neither.

What a rank of a training run holds in memory, by formula: state by ZeRO stage, and activations.

`python -m benchmarks.memory` compares both with what is counted in running processes.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn

from vatt.model.spectrogram import count_frames
from vatt.model.stem import SpectrogramPatches, count_kept
from vatt.model.text import BertStem, LinearText, T5Stem
from vatt.model.towers import Tower
from vatt.model.transformer import Encoder
from vatt.model.vatt import Vatt
from vatt.params import ClipParams


class Weights(NamedTuple):
    """Numbers of weights of a part of the model."""

    trainable: int
    frozen: int


class Cost(NamedTuple):
    """FLOPs, and the tokens that cause them."""

    num_tokens: int = 0
    """Tokens that enter the encoder, AGG included; of all captions together."""
    paper: int = 0
    """Forward, by the paper's convention."""
    full: int = 0
    """Forward, all matrix products."""
    training: int = 0
    """Forward and backward, all matrix products: three times `full`, without the gradients of raw
    signals and of frozen words, which nobody needs."""
    recomputed: int = 0
    """Computed once more in training where the encoder keeps no activations."""


def add_costs(costs: Iterable[Cost]) -> Cost:
    """Return the sum of some costs."""
    return Cost(*(sum(column) for column in zip(*costs, strict=True)))


def count_weights(model: Vatt) -> dict[str, Weights]:
    """Return the weights of each part; what is shared is counted once, under a name of its own."""
    heads = (model.video_projection, model.audio_projection, model.text_projection)
    parts: dict[str, nn.Module] = {
        "video": model.video,
        "audio": model.audio,
        "text": model.text,
        "projections": nn.ModuleList(heads),
    }
    if model.shares_encoder:
        parts = {"shared encoder": model.video.encoder, **parts}
    seen: set[int] = set()
    counts = {}
    for name, part in parts.items():
        weights = [weight for weight in part.parameters() if id(weight) not in seen]
        seen.update(map(id, weights))
        trainable = sum(weight.numel() for weight in weights if weight.requires_grad)
        frozen = sum(weight.numel() for weight in weights) - trainable
        counts[name] = Weights(trainable, frozen)
    return counts


def count_clip(model: Vatt, clip: ClipParams, drop_token_rate: float) -> dict[str, Cost]:
    """Return what a clip with all its captions costs: each tower, projection included.

    `clip` is the one that the model was built for. In evaluation nothing is dropped: a rate of 0.
    The model may be on the meta device.
    """
    video = count_signal_tower(model.video, clip, drop_token_rate)
    audio = count_signal_tower(model.audio, clip, drop_token_rate)
    caption = (_count_text(model.text, clip.num_tokens), count_head(model.text_projection))
    return {
        "video": add_costs([video, count_head(model.video_projection)]),
        "audio": add_costs([audio, count_head(model.audio_projection)]),
        "text": add_costs(clip.num_candidates * caption),
    }


def count_signal_tower(tower: Tower, clip: ClipParams, drop_token_rate: float) -> Cost:
    """Return what a clip costs in a video or audio tower, without a projection or classifier."""
    stem: Any = tower.stem
    num_patches = math.prod(len(table.table) for table in stem.positions.tables)
    num_kept = count_kept(num_patches, drop_token_rate)
    projection = 2 * num_kept * stem.patches.projection.weight.numel()
    full = 2 * num_kept * _count_products(stem)
    spectrogram = 0
    if isinstance(stem.patches, SpectrogramPatches):
        bands: Any = stem.patches.spectrogram.bands
        spectrogram = 2 * count_frames(clip.num_samples) * bands.numel()
    cost = Cost(
        num_tokens=num_kept + 1,
        paper=2 * num_patches * _count_products(stem),
        full=full + spectrogram,
        training=3 * full - projection + spectrogram,
    )
    return add_costs([cost, _count_encoder(tower, num_kept + 1)])


def _count_text(tower: Tower | LinearText, num_words: int) -> Cost:
    """Return what one caption costs in the text tower."""
    stem: Any = tower.stem if isinstance(tower, Tower) else tower
    # The AGG token of T5 is as wide as a word and passes their projection, with its gradient.
    num_projected = num_words + isinstance(stem, T5Stem)
    needs_gradient = isinstance(stem, T5Stem) or stem.words.weight.requires_grad
    full = 2 * num_projected * _count_products(stem)
    cost = Cost(paper=full, full=full, training=(3 if needs_gradient else 2) * full)
    if isinstance(tower, LinearText):
        return cost
    num_tokens = num_words + 1
    return add_costs([cost, Cost(num_tokens=num_tokens), _count_encoder(tower, num_tokens)])


def _count_encoder(tower: Tower, num_tokens: int) -> Cost:
    """Return what a sequence costs in the encoder and in what follows it in the tower."""
    encoder: Encoder = tower.encoder
    block: Any = encoder.blocks[0]
    num_layers, attention = len(encoder.blocks), block.attention
    inner, products = attention.query.out_features, _count_products(block)
    key_value = attention.key_value.weight.numel()
    num_scores = num_tokens**2
    blocks = (num_layers - 1) * (2 * num_tokens * products + 4 * num_scores * inner)
    # The last block: keys and values of all tokens, the rest of AGG only.
    blocks += 2 * num_tokens * key_value + 2 * (products - key_value) + 4 * num_tokens * inner
    paper = 2 * num_layers * (num_tokens * products + num_scores * inner)
    paper += 6 * num_layers * attention.num_heads * num_scores
    after = 2 * _count_products(tower.post_projection)
    full = blocks + after
    return Cost(paper=paper + num_tokens * after, full=full, training=3 * full, recomputed=blocks)


def count_head(head: nn.Module) -> Cost:
    """Return what linear layers cost on one vector, such as a projection or a classifier."""
    full = 2 * _count_products(head)
    return Cost(paper=full, full=full, training=3 * full)


def _count_products(module: nn.Module) -> int:
    """Return the multiply-adds of one token in all linear layers of a module."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


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
