"""A classifier with its loss: what is fine-tuned (VATT appendix A.2 and A.3)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vatt.batch import LabelledBatch
from vatt.losses.classification import balanced_sigmoid_loss, softmax_loss
from vatt.models.classification.networks import Network
from vatt.params import TaskParams
from vatt.train.classification.layers import freeze_layers

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
