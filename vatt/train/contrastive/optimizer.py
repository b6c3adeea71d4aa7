"""Adam and its schedule, of the paper and as released (VATT section 4.2)."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from vatt.params import PretrainParams

BETAS = (0.9, 0.999)


def learning_rate(step: int, pretrain: PretrainParams) -> float:
    """Return the learning rate of update number `step`, counted from 1 to `num_steps`.

    Linear from 0 to the peak at `warmup_steps`, then down to exactly half the peak: by a quarter
    period of a cosine (`paper`), or by half a period between the two (`released`). A pure function,
    so that resuming needs no state.
    """
    peak = pretrain.learning_rate
    if step < pretrain.warmup_steps:
        return peak * step / pretrain.warmup_steps
    decay_steps = max(pretrain.num_steps - pretrain.warmup_steps, 1)
    progress = (step - pretrain.warmup_steps) / decay_steps
    if pretrain.schedule == "paper":
        return peak * (1 + math.cos(math.pi / 2 * progress)) / 2
    return peak * (3 + math.cos(math.pi * progress)) / 4


def adam_settings(step: int, pretrain: PretrainParams) -> dict[str, float]:
    """Return what torch's Adam must be given for update number `step`, counted from 1.

    The original adds epsilon to the second moment before its bias is corrected, torch afterwards;
    torch's epsilon divided by that correction is the same.
    """
    correction = math.sqrt(1 - BETAS[1] ** step)
    return {"lr": learning_rate(step, pretrain), "eps": pretrain.adam_epsilon / correction}


def build_optimizer(
    parameters: Iterable[nn.Parameter], pretrain: PretrainParams
) -> torch.optim.Adam:
    """Return Adam over the parameters that are trained.

    Before every update its groups are given the values of `adam_settings`.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # Fused: one pass through memory, which is all that an update costs.
    return torch.optim.Adam(
        trained, lr=pretrain.learning_rate, betas=BETAS, eps=pretrain.adam_epsilon, fused=True
    )
