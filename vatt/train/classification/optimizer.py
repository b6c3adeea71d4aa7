"""SGD and the schedule of fine-tuning (VATT appendix A.3), and AdamW with layers that learn slower."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from vatt.models.classification.networks import Network
from vatt.params import ScheduleParams, TaskParams
from vatt.train.classification.layers import count_layers_above
from vatt.train.classification.objective import ClassificationObjective

ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
RATE_SCALE = "rate_scale"
"""Of a group of weights: its learning rate against that of the head."""


def learning_rate(step: int, task: TaskParams) -> float:
    """Return the learning rate of the head at update number `step`, counted from 1 to `num_steps`.

    Linear from 0 to the peak at `warmup_steps`, then down to 0 at the last step by half a period
    of a cosine (the paper's) or by a straight line, or constant. A pure function, so that resuming
    needs no state.
    """
    peak, warmup_steps = task.schedule.learning_rate, task.schedule.warmup_steps
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(task.num_steps - warmup_steps, 1)
    match task.schedule.shape:
        case "cosine":
            return peak * (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return peak * (1 - progress)
        case "constant":
            return peak


def optimizer_settings(
    step: int, task: TaskParams, optimizer: torch.optim.Optimizer
) -> list[dict[str, float]]:
    """Return what the groups of the optimizer must be given for update number `step`, counted from 1."""
    rate = learning_rate(step, task)
    return [{"lr": rate * group[RATE_SCALE]} for group in optimizer.param_groups]


def build_finetuning_optimizer(
    objective: ClassificationObjective, task: TaskParams
) -> torch.optim.SGD | torch.optim.AdamW:
    """Return the optimizer over the weights that are trained.

    Before every update its groups are given the values of `optimizer_settings`. Below the head every
    layer learns `layer_decay` times as fast as the one above it. Only matrices decay: no biases,
    norms, positions and AGG tokens.
    """
    schedule = task.schedule
    groups, peak = _group_weights(objective.model, schedule), schedule.learning_rate
    # Fused: one pass through memory, which is all that an update costs.
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=peak, momentum=schedule.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=peak, betas=ADAM_BETAS, eps=ADAM_EPSILON, fused=True)


def _group_weights(network: Network, schedule: ScheduleParams) -> list[dict[str, Any]]:
    """Return the weights that are trained, together those with one rate and decay."""
    above = count_layers_above(network)
    groups: defaultdict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and ".positions." not in name
            groups[above[parameter], decays].append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": schedule.weight_decay if decays else 0.0,
            RATE_SCALE: schedule.layer_decay**num_above,
        }
        for (num_above, decays), parameters in sorted(groups.items())
    ]
