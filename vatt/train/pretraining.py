"""Pre-training: its loss, optimizer and data, and how its health is measured (VATT section 4.2)."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from vatt.core.batch import Batch
from vatt.loading.clips import ClipReader
from vatt.loading.loader import open_pretraining_loader
from vatt.loading.order import TrainingOrder
from vatt.loading.views import open_validation_loader
from vatt.model.cost import add_costs, count_clip
from vatt.model.losses import contrastive_loss
from vatt.model.towers import restore_weights
from vatt.model.vatt import Vatt
from vatt.params import LossParams, PretrainParams
from vatt.train.engine import Engine
from vatt.train.loop import Setup, Validation, open_shards
from vatt.train.monitor import find_collapse, measure_health
from vatt.train.recipe import Job, PretrainRecipe
from vatt.train.speed import require_memory

PARTS = ("loss", "loss_va", "loss_vt")
"""The names of what the objective returns."""
BETAS = (0.9, 0.999)


class Objective(nn.Module):
    """Maps a batch to its losses."""

    def __init__(self, model: Vatt, loss: LossParams) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Batch) -> Float[Tensor, "3"]:
        """Return the loss to minimise, its video-audio and its video-text part."""
        losses = contrastive_loss(self.model(batch), batch.audio_mask, batch.text_mask, self._loss)
        return torch.stack([losses.total, losses.video_audio, losses.video_text])


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
    """Return the settings of torch's Adam for update number `step`, counted from 1.

    The original adds epsilon to the second moment before its bias is corrected, torch afterwards;
    torch's epsilon divided by that correction is the same.
    """
    correction = math.sqrt(1 - BETAS[1] ** step)
    return {"lr": learning_rate(step, pretrain), "eps": pretrain.adam_epsilon / correction}


def build_optimizer(
    parameters: Iterable[nn.Parameter], pretrain: PretrainParams
) -> torch.optim.Adam:
    """Return Adam over the parameters that are trained; every update has its `adam_settings`."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # Fused: one pass through memory, which is all that an update costs.
    return torch.optim.Adam(
        trained, lr=pretrain.learning_rate, betas=BETAS, eps=pretrain.adam_epsilon, fused=True
    )


def prepare_pretraining(job: Job, recipe: PretrainRecipe) -> Setup:
    """Return what a rank of pre-training computes with."""
    torch.manual_seed(recipe.run.seed)
    model, pretrain = Vatt(recipe.model, recipe.clip, recipe.vocab_size), recipe.pretrain
    if job.initial_weights is not None:
        restore_weights(model, load_file(job.initial_weights))
    objective = Objective(model, recipe.loss)

    shards = open_shards(recipe.launch, recipe.index_digest)
    reader = ClipReader(job.preprocess_dir, recipe.clip, shards)

    def open_batches(order: TrainingOrder) -> Iterable[Batch]:
        workers = recipe.launch.loader_workers
        return open_pretraining_loader(reader, order, pretrain.source_weights, workers)

    def measure(engine: Engine) -> dict[str, float]:
        return measure_health(engine, _open_validation(recipe, reader))

    def find_problems(step: int, health: Mapping[str, float]) -> list[str]:
        return find_collapse(health, is_warm=step > pretrain.warmup_steps)

    # Both before ZeRO-3 takes the weights apart.
    drop_token_rate = recipe.model.drop_token_rate
    require_memory(model, recipe.clip, drop_token_rate, pretrain, recipe.launch)
    costs = count_clip(model, recipe.clip, drop_token_rate)
    return Setup(
        objective=objective,
        parts=PARTS,
        optimizer=build_optimizer(objective.parameters(), pretrain),
        settings=lambda step: [adam_settings(step, pretrain)],
        open_batches=open_batches,
        validation=Validation("health", measure, find_problems),
        select_weights=lambda weights: {
            name.removeprefix("model."): weight for name, weight in weights.items()
        },
        cost=add_costs(costs.values()),
    )


def _open_validation(recipe: PretrainRecipe, reader: ClipReader) -> Iterator[Batch]:
    """Yield the first clips of the split validation, as many at once as are trained on at once."""
    left = recipe.pretrain.validation_clips
    size = recipe.pretrain.batch_size // (
        recipe.launch.num_processes * recipe.pretrain.accumulation_steps
    )
    for rows, batch in open_validation_loader(reader, "validation", size):
        seen = torch.from_numpy(np.flatnonzero(rows["has_video"])[:left])
        if len(seen):
            yield Batch(*(getattr(batch, field.name)[seen] for field in fields(batch)))
        left -= len(seen)
        if left == 0:
            return
