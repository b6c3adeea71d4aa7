"""Pre-training: its network and loss, its data, and how its health is measured."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vatt.batch import Batch
from vatt.data.clips import ClipReader
from vatt.data.loader import LoaderOptions, open_evaluation_loader, open_pretraining_loader
from vatt.data.loading.order import TrainingOrder
from vatt.models.accounting import add_costs, count_clip
from vatt.models.tower import restore_weights
from vatt.models.vatt import Vatt
from vatt.train.contrastive.objective import PARTS, Objective
from vatt.train.contrastive.optimizer import adam_settings, build_optimizer
from vatt.train.engine import Engine
from vatt.train.jobs.recipes import Job, PretrainRecipe
from vatt.train.jobs.setup import Setup, open_shards
from vatt.train.loop import Validation
from vatt.train.numbers.health import find_collapse, measure_health
from vatt.train.numbers.memory import require_memory


def prepare_pretraining(job: Job, recipe: PretrainRecipe) -> Setup:
    """Return what a rank of pre-training computes with."""
    objective = build_objective(job, recipe)
    pretrain = recipe.pretrain

    def open_batches(order: TrainingOrder) -> Iterable[Batch]:
        options = LoaderOptions(
            num_workers=recipe.launch.loader_workers,
            source_weights=pretrain.source_weights,
            shards=open_shards(recipe.launch, recipe.index_digest),
        )
        return open_pretraining_loader(job.preprocess_dir, recipe.clip, order, options)

    reader = ClipReader(
        job.preprocess_dir, recipe.clip, open_shards(recipe.launch, recipe.index_digest)
    )

    def measure(engine: Engine) -> dict[str, float]:
        return measure_health(engine, _open_validation(recipe, reader))

    def find_problems(step: int, health: Mapping[str, float]) -> list[str]:
        return find_collapse(health, is_warm=step > pretrain.warmup_steps)

    # Both before ZeRO-3 takes the weights apart.
    drop_token_rate = recipe.model.drop_token_rate
    require_memory(objective.model, recipe.clip, drop_token_rate, pretrain, recipe.launch)
    costs = count_clip(objective.model, recipe.clip, drop_token_rate)
    return Setup(
        objective=objective,
        parts=PARTS,
        optimizer=build_optimizer(objective.parameters(), pretrain),
        settings=lambda step: [adam_settings(step, pretrain)],
        open_batches=open_batches,
        validation=Validation("health", measure, find_problems),
        select_weights=_select_weights,
        cost=add_costs(costs.values()),
    )


def build_objective(job: Job, recipe: PretrainRecipe) -> Objective:
    """Return model and loss with the weights that training starts from."""
    torch.manual_seed(recipe.run.seed)
    model = Vatt(recipe.model, recipe.clip, recipe.vocab_size)
    if job.initial_weights is not None:
        restore_weights(model, load_file(job.initial_weights))
    return Objective(model, recipe.loss)


def _select_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): weight for name, weight in weights.items()}


def _open_validation(recipe: PretrainRecipe, reader: ClipReader) -> Iterator[Batch]:
    """Yield the first clips of the split validation, as many at once as are trained on at once."""
    left = recipe.pretrain.validation_clips
    size = recipe.pretrain.batch_size // (
        recipe.launch.num_processes * recipe.pretrain.accumulation_steps
    )
    clips = open_evaluation_loader(reader, "validation", 1, size)
    for rows, batch in clips:
        seen = torch.from_numpy(np.flatnonzero(rows["has_video"])[:left])
        if len(seen):
            yield Batch(*(getattr(batch, field.name)[seen] for field in fields(batch)))
        left -= len(seen)
        if left == 0:
            return
