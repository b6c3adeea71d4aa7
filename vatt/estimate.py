"""What a pre-training run of a configuration costs: FLOPs, time on GPUs, memory for the weights."""

from typing import NamedTuple

import torch

from vatt.models.accounting import Cost, Weights, add_costs, count_clip, count_weights
from vatt.models.memory import estimate_state_bytes
from vatt.models.vatt import Vatt
from vatt.params import Params

PEAK_FLOPS = 989e12
"""Of an NVIDIA H100 SXM in a second, dense bf16, by its data sheet."""
UTILISATION = 0.4
"""The share of it that a run is supposed to reach."""
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
    memory_bytes: tuple[float, ...]
    """Weights, gradients and Adam of each process, by ZeRO stage: see `estimate_state_bytes`."""


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
        tuple(
            estimate_state_bytes(weights, params.launch.num_processes, stage) for stage in range(4)
        ),
    )
