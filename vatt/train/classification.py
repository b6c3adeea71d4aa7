"""A classifier with its loss: what is fine-tuned (VATT appendix A.2 and A.3).

SGD and the schedule of fine-tuning (VATT appendix A.3), and AdamW with layers that learn slower.

The layers of a classifier from the bottom up: which are frozen, which learn slower.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vatt.core.batch import LabelledBatch
from vatt.model.classifier import Network
from vatt.model.losses import balanced_sigmoid_loss, softmax_loss
from vatt.params import ScheduleParams, TaskParams


def count_layers_above(network: Network) -> dict[nn.Parameter, int]:
    """Return for each weight how many layers lie above it.

    0 for what is behind the last block of a tower (norm, projection, fusion, head), 1 for the last
    block, and one more than there are blocks for patches, positions and the AGG token.
    """
    above: dict[nn.Parameter, int] = {}
    for tower in network.towers:
        layers: list[nn.Module] = [tower.stem, *tower.encoder.blocks]
        for number, layer in enumerate(layers):
            above.update(dict.fromkeys(layer.parameters(), len(layers) - number))
    return {parameter: above.get(parameter, 0) for parameter in network.parameters()}


def freeze_layers(network: Network, freeze: int | str) -> None:
    """Keep weights as they are: of none, of the whole `tower` (of both), or of its first layers.

    A number is that of the first blocks of each tower; patches, positions and the AGG token, which
    lie below, are frozen with them.
    """
    if freeze == "none":
        return
    for tower in network.towers:
        blocks = tower.encoder.blocks
        if freeze == "tower":
            tower.requires_grad_(requires_grad=False)
        else:
            for layer in [tower.stem, *blocks[: int(freeze)]]:
                layer.requires_grad_(requires_grad=False)


PARTS = ("loss", "accuracy")
"""What the objective returns."""
MODEL, AVERAGE = "model.", "average.module."
"""How the names of its weights begin."""


class ClassificationObjective(nn.Module):
    """Maps a batch to its losses, and predicts.

    `model` is what is trained. With `ema_decay`, `average` follows it, and is what predicts; it is
    kept with the other weights.
    """

    def __init__(self, model: Network, task: TaskParams) -> None:
        super().__init__()
        freeze_layers(model, task.freeze)
        self.model = model
        self.average: AveragedModel | None = None
        if task.ema_decay is not None:
            decay = task.ema_decay
            self.average = AveragedModel(model, multi_avg_fn=partial(_follow, decay=decay))
            self.average.requires_grad_(requires_grad=False)
        self._task = task

    def forward(self, batch: LabelledBatch) -> Float[Tensor, "2"]:
        """Return the loss to minimise, and the share of clips whose highest logit is of a label.

        In training, clips are mixed and labels smoothed, as the schedule says; of mixed labels the
        larger one counts.
        """
        schedule = self._task.schedule
        signals, labels, smoothing = batch.signals, batch.labels, 0.0
        if self.training:
            smoothing = schedule.label_smoothing
            if schedule.mixup_alpha > 0:
                signals, labels = mix(signals, labels, schedule.mixup_alpha)
        logits = _classify(self.model if self.training else self.best, signals)
        if self._task.multi_label:
            loss = balanced_sigmoid_loss(logits, labels)
        else:
            loss = softmax_loss(logits, labels, smoothing)
        return torch.stack([loss, count_hits(logits, labels)])

    @property
    def best(self) -> Network:
        """What predicts: the average where there is one."""
        return self.model if self.average is None else cast("Network", self.average.module)

    def classify(self, batch: LabelledBatch) -> Float[Tensor, "B C"]:
        """Return the logits of what predicts."""
        return _classify(self.best, batch.signals)

    def after_update(self) -> None:
        """Let the average follow the weights, which were just updated.

        It is that of the first update, then keeps `ema_decay` of itself; or less at first, so that
        the random weights of the head are soon forgotten: (1 + n) / (10 + n) after n updates.
        """
        if self.average is not None:
            self.average.update_parameters(self.model)


def keep_best(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return of an objective's weights those of what predicts, under the names of its network."""
    has_average = any(name.startswith(AVERAGE) for name in weights)
    prefix = AVERAGE if has_average else MODEL
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def _follow(
    averages: Sequence[Tensor], weights: Sequence[Tensor], num_averaged: Tensor, *, decay: float
) -> None:
    number = int(num_averaged)
    kept = min(decay, (1 + number) / (10 + number))
    for average, weight in zip(averages, weights, strict=True):
        average.lerp_(weight, 1 - kept)


def mix(
    signals: Mapping[str, Tensor], labels: Float[Tensor, "B C"], alpha: float
) -> tuple[dict[str, Tensor], Float[Tensor, "B C"]]:
    """Mix every clip, and its labels, with another of the batch (mixup, VATT appendix A.3).

    The shares are drawn from Beta(alpha, alpha) for each clip, the others by one permutation, both
    from torch's generator. A clip that is its own partner stays as it is.
    """
    shape = torch.full((len(labels),), alpha, device=labels.device)
    shares = torch.distributions.Beta(shape, shape).sample()
    partners = torch.randperm(len(labels), device=labels.device)

    def blend(values: Tensor) -> Tensor:
        share = shares.view(-1, *[1] * (values.ndim - 1)).to(values.dtype)
        return share * values + (1 - share) * values[partners]

    return {name: blend(signal) for name, signal in signals.items()}, blend(labels)


def count_hits(logits: Float[Tensor, "B C"], labels: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Return the share of the clips whose highest logit is of its label, or of one of its labels.

    A clip without labels is none of them.
    """
    labels_there = labels.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)
    largest = labels.amax(1)
    return ((labels_there == largest) & (largest > 0)).float().mean()


def _classify(network: Network, signals: Mapping[str, Tensor]) -> Float[Tensor, "B C"]:
    logits: Tensor = network(*(signals[modality] for modality in network.modalities))
    return logits


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
