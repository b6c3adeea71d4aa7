"""Fine-tuning: its network and loss, its data, and how it is measured (VATT appendix A.2)."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional

from vatt.core.batch import LabelledBatch
from vatt.corpus.manifest import Split
from vatt.loading.clips import ClipReader
from vatt.loading.labelled import LabelledSplit, read_labelled
from vatt.loading.loader import open_labelled_loader
from vatt.loading.order import TrainingOrder
from vatt.loading.tasks import TaskInput
from vatt.loading.views import open_labelled_validation_loader
from vatt.model.classifier import build_network
from vatt.model.losses import softmax_loss
from vatt.model.towers import restore_weights
from vatt.params import ScheduleParams, TaskParams
from vatt.train.classification import (
    PARTS,
    ClassificationObjective,
    build_finetuning_optimizer,
    keep_best,
    optimizer_settings,
)
from vatt.train.engine import Engine
from vatt.train.loop import Setup, Validation, open_shards
from vatt.train.recipe import FinetuneRecipe, Job

OnValidation = Callable[[int, dict[str, float]], None]
"""Is told the step of a measurement on the split validation, and its numbers."""


def prepare_finetuning(
    job: Job, recipe: FinetuneRecipe, on_validation: OnValidation | None
) -> Setup:
    """Return what a rank of fine-tuning computes with.

    Raises:
        StageError: the corpus or the first weights cannot be read, or do not fit.
    """
    task, launch = recipe.task, recipe.launch
    objective = build_objective(job, recipe)
    optimizer = build_finetuning_optimizer(objective, task)
    splits = _read_splits(job, recipe)
    task_input = TaskInput(recipe.task_name, recipe.clip, task.audio_stride)
    shards = open_shards(launch, recipe.index_digest)
    reader = ClipReader(job.preprocess_dir, recipe.clip, shards)

    def open_batches(order: TrainingOrder) -> Iterable[LabelledBatch]:
        workers = launch.loader_workers
        return open_labelled_loader(reader, task_input, splits["train"], order, workers)

    def open_validation() -> Iterator[LabelledBatch]:
        split = splits["validation"]
        num_clips = min(task.validation_clips, len(split))
        size = task.batch_size // (launch.num_processes * task.accumulation_steps)
        return open_labelled_validation_loader(reader, task_input, split, num_clips, size)

    validation = None
    if len(splits["validation"]):
        measure = partial(_measure, open_validation=open_validation, task=task)
        validation = Validation("validation", measure, tell=on_validation)
    return Setup(
        objective=objective,
        parts=PARTS,
        optimizer=optimizer,
        settings=lambda step: optimizer_settings(step, task, optimizer),
        open_batches=open_batches,
        validation=validation,
        select_weights=keep_best,
    )


def build_objective(job: Job, recipe: FinetuneRecipe) -> ClassificationObjective:
    """Return network and loss with the weights that training starts from."""
    torch.manual_seed(recipe.run.seed)
    network = build_network(recipe.network)
    if job.initial_weights is not None:
        restore_weights(network, load_file(job.initial_weights))
    return ClassificationObjective(network, recipe.task)


def give_schedule(job: Job, schedule: Mapping[str, Any], directory: Path) -> Job:
    """Return the job with another schedule (all keys of ScheduleParams), in a folder of its own.

    Its curve lies in that folder, too.
    """
    recipe = job.recipe
    if not isinstance(recipe, FinetuneRecipe):
        raise TypeError(f"{recipe.section}: has no schedule to replace")
    chosen = ScheduleParams.model_validate(dict(schedule))
    updates = {
        "recipe": recipe.take_schedule(chosen),
        "directory": directory,
        "curve_path": directory / "curve.jsonl",
    }
    return job.model_copy(update=updates)


def read_validations(job: Job) -> list[dict[str, float]]:
    """Return the measurements of a finished run on the split validation, each with its `step`."""
    if not job.validations_path.is_file():  # the split validation is empty
        return []
    lines = job.validations_path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _read_splits(job: Job, recipe: FinetuneRecipe) -> dict[Split, LabelledSplit]:
    """Return the segments to train on and to measure; the split test is not opened."""
    names: tuple[Split, ...] = ("train", "validation")
    corpus = read_labelled(job.preprocess_dir, recipe.task_name, recipe.task, names, recipe.classes)
    return corpus.splits


def _measure(
    engine: Engine, *, open_validation: Callable[[], Iterator[LabelledBatch]], task: TaskParams
) -> dict[str, float]:
    """Return the loss on the split validation, and the accuracy or the mean average precision."""
    logits, labels = [], []
    with engine.evaluating() as objective:
        for batch in open_validation():
            moved = batch.to(engine.device)
            logits.append(objective.classify(moved).float().cpu())  # type: ignore[operator]
            labels.append(batch.labels)
    return measure_logits(torch.cat(logits), torch.cat(labels), multi_label=task.multi_label)


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
    heard = np.flatnonzero(labels.any(0).numpy())
    truth, scores = labels.bool().numpy(), logits.numpy()
    precisions = [average_precision_score(truth[:, number], scores[:, number]) for number in heard]
    return {"loss": float(loss), "map": float(np.mean(precisions)) if len(heard) else 0.0}
