"""Fine-tuning: its loss, optimizer and data, and how it is measured (VATT appendix A.2 and A.3).

SGD and its schedule are the paper's. Ours are AdamW, layers that learn slower or not at all, and a
running average of the weights.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from vatt.core.batch import LabelledBatch
from vatt.corpus.manifest import Split
from vatt.loading.clips import ClipReader
from vatt.loading.loader import TrainingWindows, open_labelled_validation_loader
from vatt.loading.order import TrainingOrder
from vatt.loading.tasks import TaskInput, read_labelled
from vatt.model.classifier import Network, build_network
from vatt.model.losses import balanced_sigmoid_loss, softmax_loss
from vatt.model.towers import restore_weights
from vatt.params import TaskParams
from vatt.train.engine import Engine
from vatt.train.loop import Setup, Validation, open_shards
from vatt.train.recipe import FinetuneRecipe, Job

PARTS = ("loss", "accuracy")
"""The names of what the objective returns."""
MODEL, AVERAGE = "model.", "average.module."
"""How the names of the objective's weights begin."""
RATE_SCALE = "rate_scale"
"""The key of a group of weights that holds its learning rate against that of the head."""
OnValidation = Callable[[int, dict[str, float]], None]
"""Receives the step of a measurement on the split validation, and its numbers."""


class ClassificationObjective(nn.Module):
    """Maps a batch to its losses, and predicts.

    `model` is trained. With `ema_decay`, `average` follows it and predicts in its place; it is kept
    with the other weights.
    """

    def __init__(self, model: Network, task: TaskParams) -> None:
        super().__init__()
        frozen: list[nn.Module] = list(model.towers) if task.freeze == "tower" else []
        if isinstance(task.freeze, int):  # so many first blocks, and what lies below them
            for layers in _list_layers(model):
                frozen += layers[: task.freeze + 1]
        for module in frozen:
            module.requires_grad_(requires_grad=False)
        self.model = model
        self.average: AveragedModel | None = None
        if task.ema_decay is not None:
            follow = partial(_follow, decay=task.ema_decay)
            self.average = AveragedModel(model, multi_avg_fn=follow).requires_grad_(False)
        self._task = task

    def forward(self, batch: LabelledBatch) -> Float[Tensor, "2"]:
        """Return the loss to minimise, and the share of clips whose highest logit is of a label.

        In training, clips are mixed and labels smoothed, as the schedule says; the larger one of
        two mixed labels counts.
        """
        schedule = self._task.schedule
        signals, labels, smoothing = batch.signals, batch.labels, 0.0
        if self.training:
            smoothing = schedule.label_smoothing
            if schedule.mixup_alpha > 0:
                signals, labels = mix(signals, labels, schedule.mixup_alpha)
        logits = self.classify(signals)
        if self._task.multi_label:
            loss = balanced_sigmoid_loss(logits, labels)
        else:
            loss = softmax_loss(logits, labels, smoothing)
        return torch.stack([loss, count_hits(logits, labels)])

    def classify(self, signals: Mapping[str, Tensor]) -> Float[Tensor, "B C"]:
        """Return the logits: in training of the model, else of the average where there is one."""
        network: Any = self.model
        if self.average is not None and not self.training:
            network = self.average.module
        logits: Tensor = network(*(signals[modality] for modality in network.modalities))
        return logits

    def after_update(self) -> None:
        """Let the average follow the weights, which were just updated."""
        if self.average is not None:
            self.average.update_parameters(self.model)


def keep_best(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an objective's weights that predict, under the names of their network."""
    prefix = AVERAGE if any(name.startswith(AVERAGE) for name in weights) else MODEL
    chosen = [name for name in weights if name.startswith(prefix)]
    return {name.removeprefix(prefix): weights[name] for name in chosen}


def _follow(
    averages: Sequence[Tensor], weights: Sequence[Tensor], num_averaged: Tensor, *, decay: float
) -> None:
    """Update a running average, which begins as the weights after the first update."""
    number = int(num_averaged)
    # Less than the decay at first, so that the random weights of the head are soon forgotten.
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
    """Return the share of clips whose highest logit is of their label, or of one of their labels.

    A clip without labels is never hit.
    """
    labels_there = labels.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)
    largest = labels.amax(1)
    return ((labels_there == largest) & (largest > 0)).float().mean()


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
    """Return the settings of each group of the optimizer for update number `step`, from 1 on."""
    rate = learning_rate(step, task)
    return [{"lr": rate * group[RATE_SCALE]} for group in optimizer.param_groups]


def build_finetuning_optimizer(
    objective: ClassificationObjective, task: TaskParams
) -> torch.optim.SGD | torch.optim.AdamW:
    """Return the optimizer over the weights that are trained, in groups of one rate and decay.

    Every update has its `optimizer_settings`. Below the head every layer learns `layer_decay` times
    as fast as the one above it. Only matrices decay: no biases, norms, positions and AGG tokens.
    """
    # By weight: how many layers lie above it; 0 behind the last block (norm, fusion, head).
    above: dict[nn.Parameter, int] = {}
    for layers in _list_layers(objective.model):
        for number, layer in enumerate(layers):
            above.update(dict.fromkeys(layer.parameters(), len(layers) - number))
    together: defaultdict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in objective.model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and ".positions." not in name
            together[above.get(parameter, 0), decays].append(parameter)
    schedule, peak = task.schedule, task.schedule.learning_rate
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": schedule.weight_decay if decays else 0.0,
            RATE_SCALE: schedule.layer_decay**num_above,
        }
        for (num_above, decays), parameters in sorted(together.items())
    ]
    # Fused: one pass through memory, which is all that an update costs.
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=peak, momentum=schedule.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.999), eps=1e-8, fused=True)


def _list_layers(network: Network) -> list[list[nn.Module]]:
    """Return the layers of each tower from below: patches with positions and AGG, then blocks."""
    return [[tower.stem, *tower.encoder.blocks] for tower in network.towers]


def prepare_finetuning(
    job: Job, recipe: FinetuneRecipe, on_validation: OnValidation | None
) -> Setup:
    """Return what a rank of fine-tuning computes with.

    Raises:
        StageError: the corpus or the first weights cannot be read, or do not fit.
    """
    task, launch = recipe.task, recipe.launch
    torch.manual_seed(recipe.run.seed)
    network = build_network(recipe.network)
    if job.initial_weights is not None:
        restore_weights(network, load_file(job.initial_weights))
    objective = ClassificationObjective(network, task)
    optimizer = build_finetuning_optimizer(objective, task)
    task_input = TaskInput(recipe.task_name, recipe.clip, task.audio_stride)
    names: tuple[Split, ...] = ("train", "validation")
    folder = job.preprocess_dir
    splits = read_labelled(folder, recipe.task_name, task, names, recipe.classes).splits
    reader = ClipReader(folder, recipe.clip, open_shards(launch, recipe.index_digest))

    def open_batches(order: TrainingOrder) -> Iterator[LabelledBatch]:
        windows = TrainingWindows(reader, task_input, splits["train"], order.seed)
        return windows.load(order, num_workers=launch.loader_workers)

    def measure(engine: Engine) -> dict[str, float]:
        split, logits, labels = splits["validation"], [], []
        num_clips, size = min(task.validation_clips, len(split)), job.clips_at_once
        clips = open_labelled_validation_loader(reader, task_input, split, num_clips, size)
        with engine.evaluating():
            for batch in clips:
                moved = batch.to(engine.device)
                logits.append(objective.classify(moved.signals).float().cpu())
                labels.append(batch.labels)
        return measure_logits(torch.cat(logits), torch.cat(labels), multi_label=task.multi_label)

    validation = Validation("validation", measure, report=on_validation)
    return Setup(
        objective=objective,
        parts=PARTS,
        optimizer=optimizer,
        settings=lambda step: optimizer_settings(step, task, optimizer),
        open_batches=open_batches,
        validation=validation if len(splits["validation"]) else None,
    )


def measure_logits(logits: Tensor, labels: Tensor, *, multi_label: bool) -> dict[str, float]:
    """Return the loss of logits (N, C), and `accuracy`, or `map` where a clip may have many labels.

    A clip whose label is none of the classes is wrong. The mean average precision is over the
    classes that some clip has; 0 if there are none.
    """
    if not multi_label:
        right = labels.gather(1, logits.argmax(1, keepdim=True)) > 0
        loss = softmax_loss(logits, labels, 0.0)
        return {"loss": float(loss), "accuracy": float(right.float().mean())}
    loss = functional.binary_cross_entropy_with_logits(logits, labels) * labels.shape[1]
    heard = labels.any(0)
    truth, scores = labels[:, heard].bool().numpy(), logits[:, heard].numpy()
    precision = average_precision_score(truth, scores) if heard.any() else 0.0
    return {"loss": float(loss), "map": float(precision)}


def read_validations(job: Job) -> list[dict[str, float]]:
    """Return the measurements of a finished run on the split validation, each with its `step`."""
    path = job.validations_path  # missing where the split validation is empty
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]
