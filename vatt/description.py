"""A configuration in numbers: `python -m vatt describe` prints what it builds and what that costs.

`estimate_run` computes what a pre-training run costs: FLOPs, time on GPUs, memory for the weights.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from vatt.corpus.tokenizer import read_vocabulary
from vatt.model import cost
from vatt.model.published import compare_flops, compare_sizes
from vatt.model.stem import NUM_BANDS, count_frames
from vatt.model.vatt import Vatt
from vatt.params import AUDIO_RATE_HZ, ClipParams, ModelParams, Params

PEAK_FLOPS = 989e12
"""What an NVIDIA H100 SXM computes in a second, dense bf16, by its data sheet."""
UTILISATION = 0.4
"""The share of it that a run is supposed to reach."""
SECONDS_A_DAY = 86_400
GIB = 2**30
DROP_RATES = (0.0, 0.25, 0.5, 0.75)
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")

Row = Sequence[str]


class Estimate(NamedTuple):
    """What a run costs."""

    weights: cost.Weights
    clip: cost.Cost
    """One clip with its captions, through all towers, at the configured drop rate."""
    step_flops: int
    """The forward and backward pass of a batch, recomputed activations included."""
    run_flops: int
    gpu_days: float
    """On GPUs with `PEAK_FLOPS`, at `UTILISATION`."""
    memory_bytes: tuple[float, ...]
    """Weights, gradients and Adam of each process, by ZeRO stage: see `estimate_state_bytes`."""


def build_model(params: Params, vocab_size: int) -> Vatt:
    """Return the configured model, without memory for its weights."""
    with torch.device("meta"):
        return Vatt(params.model, params.clip, vocab_size)


def estimate_run(params: Params, model: Vatt) -> Estimate:
    """Return what pre-training of the configured model costs."""
    pretrain, launch = params.pretrain, params.launch
    weights = cost.add_costs(cost.count_weights(model).values())
    towers = cost.count_clip(model, params.clip, params.model.drop_token_rate)
    clip = cost.add_costs(towers.values())
    recomputed = clip.recomputed if launch.recompute_activations else 0
    step_flops = pretrain.batch_size * (clip.training + recomputed)
    run_flops = pretrain.num_steps * step_flops
    gpu_days = run_flops / (PEAK_FLOPS * UTILISATION * SECONDS_A_DAY)
    num_ranks = launch.num_processes
    memory_bytes = (cost.estimate_state_bytes(weights, num_ranks, stage) for stage in range(4))
    return Estimate(weights, clip, step_flops, run_flops, gpu_days, tuple(memory_bytes))


def describe(path: Path, params: Params) -> str:
    """Return architecture, weights, FLOPs and memory of the configuration read from `path`.

    Raises:
        StageError: the vocabulary file exists, but is none.
    """
    vocabulary, vocab_size = params.preprocess.vocabulary, params.preprocess.vocab_size
    words = "preprocess.vocab_size, at most"
    if vocabulary is not None:
        words = f"preprocess.vocab_size; {vocabulary} is not there"
        if vocabulary.exists():
            vocab_size, words = len(read_vocabulary(vocabulary)), str(vocabulary)
    model = build_model(params, vocab_size)
    estimate = estimate_run(params, model)
    blocks = (
        [f"What {path} builds, and what it costs. Nothing is trained or written."],
        _describe_towers(params.model, params.clip, model),
        _describe_weights(model, estimate, words),
        _describe_flops(params, model),
        _describe_run(params, estimate),
        _describe_memory(params, estimate),
        _describe_published(),
    )
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


def _describe_towers(params: ModelParams, clip: ClipParams, model: Vatt) -> Iterator[str]:
    kind = "one encoder shared by all (VATT-MA)" if params.shared_encoder else "one encoder each"
    yield f"Towers: {kind}. Tokens of one clip include the AGG token of each sequence."
    frames, height, width = params.video_patch
    sound, audio_patch = f"{clip.num_samples:,} samples", f"{params.audio_patch:,} samples"
    if params.audio_input == "spectrogram":
        sound = f"{count_frames(clip.num_samples):,} x {NUM_BANDS} log-mel bands"
        audio_patch = "{} x {} bands".format(*params.spectrogram_patch)
    inputs = {
        "video": (
            f"{clip.num_frames} frames of {clip.frame_size_px} x {clip.frame_size_px}",
            f"{frames} x {height} x {width}",
        ),
        "audio": (f"{clip.num_samples / AUDIO_RATE_HZ:.2f} s of sound, {sound}", audio_patch),
        "text": (f"{clip.num_candidates} captions of {clip.num_tokens} words", "words"),
    }
    counts = [cost.count_clip(model, clip, rate) for rate in (0.0, params.drop_token_rate)]
    dropped = f"at drop {params.drop_token_rate:.0%}"
    head = ("", "layers", "width", "MLP", "heads", "tokens", dropped, "one clip is", "cut into")
    rows: list[Row] = [head]
    for name, shown in inputs.items():
        size = getattr(params, f"{name}_size")
        numbers = size.num_layers, size.width, size.mlp_width, size.num_heads
        is_linear = name == "text" and params.text_style == "linear"
        cells = ["-" if is_linear else f"{number:,}" for number in numbers]
        tokens = [f"{count[name].num_tokens:,}" for count in counts]
        rows.append((name, *cells, *tokens, *shown))
    yield from _align(rows, "<>>>>>><<")
    yield (
        f"  Text style {params.text_style}; projections {params.space_kind}, to "
        f"{params.space_va_width} numbers for video-audio, {params.space_vt_width} for video-text."
    )


def _describe_weights(model: Vatt, estimate: Estimate, words: str) -> Iterator[str]:
    yield f"Weights in millions. The word table has {model.words.num_embeddings:,} rows ({words})."
    parts = {**cost.count_weights(model), "total": estimate.weights}
    rows = [(name, *(f"{n / 1e6:,.3f}" for n in part)) for name, part in parts.items()]
    yield from _align([("", "trained", "frozen"), *rows], "<>>")


def _describe_flops(params: Params, model: Vatt) -> Iterator[str]:
    yield "Forward pass of one clip in GFLOPs, a multiply-add being two, by drop rate:"
    yield "`all` is every matrix product that the code computes; `paper` counts as the paper does"
    yield "(all patches projected, all tokens through all blocks, without query x key)."
    towers = ("video", "audio", "text")
    rows = [["drop", *towers, "all", *(f"{tower}, paper" for tower in towers), "all, paper"]]
    for rate in sorted({*DROP_RATES, params.model.drop_token_rate}):
        costs = [*cost.count_clip(model, params.clip, rate).values()]
        costs.append(cost.add_costs(costs))
        counts = [part.full for part in costs] + [part.paper for part in costs]
        rows.append([f"{rate:.0%}", *(f"{count / 1e9:,.3f}" for count in counts)])
    yield from _align(rows, ">" * len(rows[0]))


def _describe_run(params: Params, estimate: Estimate) -> Iterator[str]:
    pretrain, launch = params.pretrain, params.launch
    drop = f"{params.model.drop_token_rate:.0%}"
    yield f"Pre-training at drop {drop}, all matrix products but those of the loss. Backward"
    yield "costs twice the forward pass, less the gradients of signals and of frozen words."
    backward = "forward and backward"
    if launch.recompute_activations:
        backward += ", activations computed again"
    step = estimate.step_flops
    rate = f"{UTILISATION:.0%} of {PEAK_FLOPS / 1e12:.0f} TFLOP/s (NVIDIA H100, bf16)"
    rows = [
        ("clip, forward", _format_flops(estimate.clip.full), ""),
        ("clip", _format_flops(step / pretrain.batch_size), backward),
        ("step", _format_flops(step), f"of {pretrain.batch_size:,} clips"),
        ("run", _format_flops(estimate.run_flops), f"of {pretrain.num_steps:,} steps"),
        ("time", f"{estimate.gpu_days:,.1f} GPU-days", f"at {rate}"),
    ]
    if launch.num_processes > 1:
        days = f"{estimate.gpu_days / launch.num_processes:,.1f} days"
        rows.append(("", days, f"on {launch.num_processes} such GPUs"))
    yield from _align(rows, "<><")


def _describe_memory(params: Params, estimate: Estimate) -> Iterator[str]:
    launch = params.launch
    processes = f"each of {launch.num_processes} processes"
    yield f"Memory of {processes} for weights, gradients and Adam, in GiB."
    yield "By formula (docs/scaling.md); activations come on top."
    chosen = ["configured" if stage == launch.zero_stage else "" for stage in range(4)]
    sizes = [f"{num_bytes / GIB:,.3f}" for num_bytes in estimate.memory_bytes]
    names = [f"ZeRO {stage}" for stage in range(4)]
    yield from _align([*zip(names, sizes, chosen, strict=True)], "<><")


def _describe_published() -> Iterator[str]:
    yield "The paper's sizes, in millions of trained weights."
    rows = [("", "paper", "ours", "difference", "")]
    for size in compare_sizes():
        paper, ours = size.paper_millions, size.ours / 1e6
        rows.append(
            (size.name, f"{paper:.1f}", f"{ours:.3f}", f"{ours / paper - 1:+.2%}", size.note)
        )
    yield from _align(rows, "<>>><")
    yield ""
    yield "The paper's GFLOPs of a forward pass, ours counted as the paper does, and all of ours."
    rows = [("", "paper", "ours", "difference", "all of ours")]
    for row in compare_flops():
        paper, ours, full = row.paper_gflops, row.ours.paper / 1e9, row.ours.full / 1e9
        difference = f"{ours / paper - 1:+.2%}"
        rows.append((row.name, f"{paper:,.1f}", f"{ours:,.1f}", difference, f"{full:,.1f}"))
    yield from _align(rows, "<>>>>")


def _format_flops(flops: float) -> str:
    """Return a number with a unit, such as 2.231 PFLOPs."""
    power = 0
    while flops >= 1000 and power < len(PREFIXES) - 1:
        flops, power = flops / 1000, power + 1
    return f"{flops:.4g} {PREFIXES[power]}FLOPs"


def _align(rows: Sequence[Row], alignment: str) -> Iterator[str]:
    """Yield rows as lines whose columns stand below each other, left (<) or right (>)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, alignment, widths, strict=True)
        yield "  " + "  ".join(f"{cell:{side}{width}}" for cell, side, width in cells)
