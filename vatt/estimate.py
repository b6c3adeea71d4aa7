"""What a pre-training run of a configuration costs: FLOPs, time on GPUs, memory for the weights."""

from typing import NamedTuple

import torch

from vatt.models.accounting import Cost, Weights, add_costs, count_clip, count_weights
from vatt.models.vatt import Vatt
from vatt.params import Params

PEAK_FLOPS = 989e12
"""Of an NVIDIA H100 SXM in a second, dense bf16, by its data sheet."""
UTILISATION = 0.4
"""The share of it that a run is supposed to reach."""
FLOAT_BYTES = 4
"""Weights, gradients and moments are float32, with bf16 products, too."""
SECONDS_A_DAY = 86_400


class Estimate(NamedTuple):
    """What a run costs."""

    weights: Weights
    clip: Cost
    """One clip with its captions, through all towers, at the configured drop rate."""
    step_flops: int
    """Forward and backward of a batch, recomputed activations included."""
    run_flops: int
    gpu_days: float
    """Of GPUs with `PEAK_FLOPS`, at `UTILISATION`."""
    memory_bytes: tuple[float, float, float, float]
    """For each process, by ZeRO stage: see `estimate_memory`."""


def build_model(params: Params, vocab_size: int) -> Vatt:
    """Return the configured model, without memory for its weights."""
    with torch.device("meta"):
        return Vatt(params.model, params.clip, vocab_size)


def estimate_run(params: Params, model: Vatt) -> Estimate:
    """Return what pre-training of the configured model costs."""
    parts = count_weights(model).values()
    weights = Weights(*(sum(column) for column in zip(*parts, strict=True)))
    clip = add_costs(count_clip(model, params.clip, params.model.drop_token_rate).values())
    recomputed = clip.recomputed if params.launch.recompute_activations else 0
    step_flops = params.pretrain.batch_size * (clip.training + recomputed)
    run_flops = params.pretrain.num_steps * step_flops
    return Estimate(
        weights,
        clip,
        step_flops,
        run_flops,
        run_flops / (PEAK_FLOPS * UTILISATION * SECONDS_A_DAY),
        estimate_memory(weights, params.launch.num_processes),
    )


def estimate_memory(weights: Weights, num_processes: int) -> tuple[float, float, float, float]:
    """Return the bytes of weights, gradients and Adam's two moments by ZeRO stage, per process.

    A formula, nothing measured: stage 1 shares out the moments, 2 the gradients, too, 3 all.
    Activations, buffers and what the library keeps besides come on top.
    """
    own = FLOAT_BYTES * weights.trainable
    shared = own / num_processes
    all_weights = own + FLOAT_BYTES * weights.frozen
    return (
        all_weights + 3 * own,
        all_weights + own + 2 * shared,
        all_weights + 3 * shared,
        all_weights / num_processes + 3 * shared,
    )
