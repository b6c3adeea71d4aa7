"""Adam and its learning rate (VATT section 4.2)."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from vatt.params import PretrainParams


def learning_rate(step: int, pretrain: PretrainParams) -> float:
    """Return the learning rate of update number `step`, counted from 1 to `num_steps`.

    Linear from 0 to the peak at `warmup_steps`, then a quarter period of a cosine, which ends
    at exactly half the peak. A pure function, so that resuming needs no state.
    """
    # Differs from the released code: it runs half a period between the peak and its half.
    peak = pretrain.learning_rate
    if step < pretrain.warmup_steps:
        return peak * step / pretrain.warmup_steps
    decay_steps = max(pretrain.num_steps - pretrain.warmup_steps, 1)
    progress = (step - pretrain.warmup_steps) / decay_steps
    return peak * (1 + math.cos(math.pi / 2 * progress)) / 2


def build_optimizer(
    parameters: Iterable[nn.Parameter], pretrain: PretrainParams
) -> torch.optim.Adam:
    """Return Adam over the parameters that are trained.

    The learning rate given here is replaced before every update.
    """
    # Differs from the paper: Keras adds epsilon before, PyTorch after the bias correction of the
    # second moment; they differ only where gradients are near epsilon.
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.Adam(
        trained, lr=pretrain.learning_rate, betas=(0.9, 0.999), eps=pretrain.adam_epsilon
    )
