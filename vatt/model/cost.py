"""What a model costs: its weights, the FLOPs of one clip, and the memory of a rank.

A FLOP is one addition or multiplication, so that a multiply-add is two. There are two conventions
(VATT sections 4.2 and A.1); norms, activations, biases, word look-ups and the loss are in neither.

- `full`: every matrix product that the code computes, as torch's FLOP counter sees it. Dropped
  patches are not projected, of the last block only the AGG token is computed.
- `paper`: what the profiler of TensorFlow counted for the paper. All patches are projected and all
  tokens pass all blocks; the product of queries and keys is left out; softmax and the scaling of
  scores count 6 for each score.

`python -m benchmarks.memory` compares the memory with what is counted in running processes.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from torch import nn

from vatt.model.stem import SpectrogramPatches, count_frames, count_kept
from vatt.model.text import BertStem, T5Stem
from vatt.model.towers import Tower
from vatt.model.transformer import Dropout, Encoder
from vatt.model.vatt import Vatt
from vatt.params import ClipParams

FLOAT_BYTES = 4
"""Weights, gradients and moments are float32, with bf16 products, too."""
BUCKET_BYTES = 200_000_000
"""What ranks exchange at once, under ZeRO 1 to 3."""


class Weights(NamedTuple):
    """Numbers of weights of a part of the model."""

    trainable: int
    frozen: int


class Cost(NamedTuple):
    """FLOPs, and the tokens that cause them."""

    num_tokens: int = 0
    """Tokens that enter the encoder, AGG included; of all captions together."""
    paper: int = 0
    """The forward pass, by the paper's convention."""
    full: int = 0
    """The forward pass, all matrix products."""
    training: int = 0
    """Both passes, all matrix products: three times `full`, without the gradients of raw signals
    and of frozen words, which are not needed."""
    recomputed: int = 0
    """What training computes once more where the encoder keeps no activations."""


Numbers = TypeVar("Numbers", Weights, Cost)


def add_costs(parts: Iterable[Numbers]) -> Numbers:
    """Return the sum of some costs, or of some weights; there must be at least one."""
    first, *others = parts
    return type(first)(*map(sum, zip(first, *others, strict=True)))


def count_weights(model: Vatt) -> dict[str, Weights]:
    """Return the weights of each part; what is shared is counted once, under a name of its own."""
    heads = nn.ModuleList([model.video_projection, model.audio_projection, model.text_projection])
    parts: dict[str, nn.Module] = {"video": model.video, "audio": model.audio, "text": model.text}
    parts["projections"] = heads
    if model.audio.encoder is model.video.encoder:
        parts = {"shared encoder": model.video.encoder, **parts}
    seen: set[nn.Parameter] = set()
    counts = {}
    for name, part in parts.items():
        own = set(part.parameters()) - seen
        seen |= own
        trainable = sum(weight.numel() for weight in own if weight.requires_grad)
        counts[name] = Weights(trainable, sum(weight.numel() for weight in own) - trainable)
    return counts


def count_clip(model: Vatt, clip: ClipParams, drop_token_rate: float) -> dict[str, Cost]:
    """Return what a clip with all its captions costs: each tower, projection included.

    `clip` is the one that the model was built for. In evaluation nothing is dropped: a rate of 0.
    The model may be on the meta device.
    """
    video = count_signal_tower(model.video, clip, drop_token_rate)
    audio = count_signal_tower(model.audio, clip, drop_token_rate)
    text, num_tokens = model.text, clip.num_tokens + 1
    stem: Any = text.stem if isinstance(text, Tower) else text
    # The AGG token of T5 is as wide as a word and passes their projection, with its gradient.
    is_t5 = isinstance(stem, T5Stem)
    full = 2 * (clip.num_tokens + is_t5) * _count_products(stem)
    passes = 3 if is_t5 or stem.words.weight.requires_grad else 2
    caption = [count_head(model.text_projection), Cost(0, full, full, passes * full)]
    if isinstance(text, Tower):
        caption += [Cost(num_tokens), _count_encoder(text, num_tokens)]
    return {
        "video": add_costs([video, count_head(model.video_projection)]),
        "audio": add_costs([audio, count_head(model.audio_projection)]),
        "text": add_costs(clip.num_candidates * caption),
    }


def count_signal_tower(tower: Tower, clip: ClipParams, drop_token_rate: float) -> Cost:
    """Return what a clip costs in a video or audio tower, without a projection or classifier."""
    stem: Any = tower.stem
    num_patches = stem.positions.num_places
    num_kept = count_kept(num_patches, drop_token_rate)
    projection = 2 * num_kept * stem.patches.projection.weight.numel()
    full = 2 * num_kept * _count_products(stem)
    spectrogram = 0
    if isinstance(stem.patches, SpectrogramPatches):
        spectrogram = 2 * count_frames(clip.num_samples) * stem.patches.spectrogram.bands.numel()
    cost = Cost(
        num_tokens=num_kept + 1,
        paper=2 * num_patches * _count_products(stem),
        full=full + spectrogram,
        training=3 * full - projection + spectrogram,
    )
    return add_costs([cost, _count_encoder(tower, num_kept + 1)])


def _count_encoder(tower: Tower, num_tokens: int) -> Cost:
    """Return what a sequence costs in the encoder and in what follows it in the tower."""
    block: Any = tower.encoder.blocks[0]
    num_layers, attention = len(tower.encoder.blocks), block.attention
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


class Activations(NamedTuple):
    """Bytes that the forward pass of one clip leaves for the backward pass, on a GPU."""

    kept: int
    between: int
    """What is kept where only what enters each block is, and the rest is computed again."""
    again: int
    """What the largest block leaves when it is computed again: then it is there besides."""
    clip: int
    """The clip's picture and sound."""


def estimate_activations(
    model: Vatt, clip: ClipParams, drop_token_rate: float, precision: str
) -> Activations:
    """Return what a clip with all its captions leaves; the model may be on the meta device.

    Left out is what is small: the heads, the scores of the loss, what belongs to AGG tokens alone.
    Attention keeps no scores, as on GPUs.
    """
    size = FLOAT_BYTES if precision == "fp32" else FLOAT_BYTES // 2
    kept = between = again = 0
    for tower in (model.video, model.audio, model.text):
        stem: Any = tower.stem if isinstance(tower, Tower) else tower
        num_projected, num_agg = clip.num_candidates * clip.num_tokens, clip.num_candidates
        if tower is not model.text:
            num_projected, num_agg = count_kept(stem.positions.num_places, drop_token_rate), 1
        # What enters the linear layers and GELUs of the stem, and what dropout left.
        layers = [module for module in stem.modules() if isinstance(module, nn.Linear)]
        widths, width = [layer.in_features for layer in layers], layers[-1].out_features
        if len(layers) > 1 or isinstance(stem, (T5Stem, BertStem)):
            widths.append(width)
        before = num_projected * (size * sum(widths) + _drops_out(stem) * width)
        kept, between = kept + before, between + before
        if isinstance(tower, Tower):
            num_tokens, num_blocks = num_projected + num_agg, len(tower.encoder.blocks)
            entering, block, last = _count_block_bytes(tower.encoder, size)
            kept += num_tokens * ((num_blocks - 1) * block + last)
            between += num_tokens * num_blocks * entering
            again = max(again, num_tokens * block)
    numbers = 3 * clip.num_frames * clip.frame_size_px**2 + clip.num_samples
    return Activations(kept, between, again, FLOAT_BYTES * numbers)


def _count_block_bytes(encoder: Encoder, size: int) -> tuple[int, int, int]:
    """Return the bytes that one token leaves before a block, in a block, and in the last block.

    `size` is that of a number in products. A block keeps what enters both norms (float32), what
    enters the products for the queries and for the keys and values (one tensor in float32, two
    copies otherwise), queries, keys, values, their mean, what enters the MLP, its GELU and its
    second product; and a byte for what dropout left of each number. The last block computes of all
    but the AGG tokens only keys and values.
    """
    block: Any = encoder.blocks[0]
    width, inner = encoder.width, block.attention.query.out_features
    mlp_width = block.mlp[0].out_features
    entering, normed = FLOAT_BYTES * width, size * width
    before_attention = entering + (normed if size == FLOAT_BYTES else 2 * normed)
    mlp = entering + normed + 2 * size * mlp_width
    masks = _drops_out(encoder) * (2 * width + mlp_width)
    last = entering + normed + 2 * size * inner
    return entering, before_attention + 4 * size * inner + mlp + masks, last


def _drops_out(module: nn.Module) -> bool:
    return any(isinstance(part, Dropout) and part.p > 0 for part in module.modules())
