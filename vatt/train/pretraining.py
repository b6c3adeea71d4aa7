"""Pre-training: its loss, optimizer and data, its health and its need of memory (VATT section 4.2).

`prepare_pretraining` brings them together for the loop.
"""

import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import psutil
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from vatt.core.batch import Batch, Embeddings
from vatt.core.errors import StageError
from vatt.corpus.samples import SampleTable
from vatt.loading.clips import ClipReader
from vatt.loading.loader import TrainingWindows, open_validation_loader
from vatt.loading.order import TrainingOrder
from vatt.loading.tasks import TaskInput
from vatt.model.cost import (
    FLOAT_BYTES,
    add_costs,
    count_clip,
    count_weights,
    estimate_activations,
    estimate_state_bytes,
)
from vatt.model.losses import contrastive_loss
from vatt.model.towers import restore_weights
from vatt.model.vatt import Vatt
from vatt.params import LossParams, PretrainParams
from vatt.train.engine import Engine
from vatt.train.loop import Setup, Validation, open_shards
from vatt.train.recipe import Job, PretrainRecipe

PARTS = ("loss", "loss_va", "loss_vt")
"""The names of what the objective returns."""
BETAS = (0.9, 0.999)
COLLAPSED_RANK = 2.0
"""Embeddings that vary in fewer directions have collapsed."""
CHANCE_DEVIATIONS = 3.0
"""Mean ranks this near to chance, in standard deviations of chance, are at chance."""
SPACES = {"va": "video and audio", "vt": "video and text"}
HEALTH = "health"
"""What the numbers of validation are called, and their file in the folder of a run."""
CONTAINER = Path("/sys/fs/cgroup")
"""Where a process in a container sees its own control group (version 2)."""
GIB = 2**30


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
    """Return what a rank of pre-training computes with.

    Raises:
        StageError: the corpus cannot be read, or there is too little memory.
    """
    torch.manual_seed(recipe.run.seed)
    model, pretrain = Vatt(recipe.model, recipe.clip, recipe.vocab_size), recipe.pretrain
    if job.initial_weights is not None:
        restore_weights(model, load_file(job.initial_weights))
    objective = Objective(model, recipe.loss)
    shards = open_shards(recipe.launch, recipe.index_digest)
    reader = ClipReader(job.preprocess_dir, recipe.clip, shards)

    def open_batches(order: TrainingOrder) -> Iterator[Batch]:
        task_input, samples = (
            TaskInput("audio_visual", recipe.clip),
            SampleTable(job.preprocess_dir),
        )
        windows = TrainingWindows(reader, task_input, samples, order.seed)
        return windows.load(order, pretrain.source_weights, recipe.launch.loader_workers)

    def measure(engine: Engine) -> dict[str, float]:
        clips = _open_validation(reader, job.clips_at_once, pretrain.validation_clips)
        return measure_health(engine, clips)

    def find_problems(step: int, health: Mapping[str, float]) -> list[str]:
        # Before the first step few directions are no sign of anything.
        return find_collapse(health, is_warm=step > pretrain.warmup_steps) if step else []

    # Both before ZeRO-3 takes the weights apart.
    require_memory(model, recipe, job.clips_at_once)
    costs = count_clip(model, recipe.clip, recipe.model.drop_token_rate)
    return Setup(
        objective=objective,
        parts=PARTS,
        optimizer=build_optimizer(objective.parameters(), pretrain),
        settings=lambda step: [adam_settings(step, pretrain)],
        open_batches=open_batches,
        validation=Validation(HEALTH, measure, find_problems, begins_untrained=True),
        cost=add_costs(costs.values()),
    )


def _open_validation(reader: ClipReader, batch_size: int, num_clips: int) -> Iterator[Batch]:
    """Yield the first clips of the split validation that have a picture."""
    left = num_clips
    for rows, batch in open_validation_loader(reader, "validation", batch_size):
        seen = torch.from_numpy(np.flatnonzero(rows["has_video"])[:left])
        if len(seen):
            yield Batch(*(getattr(batch, field.name)[seen] for field in fields(batch)))
        left -= len(seen)
        if left == 0:
            return


def measure_health(engine: Engine, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the health of all spaces on some clips; every rank must measure the same clips.

    Names end in the space: va or vt. Clips without audio or text are left out of a space, and a
    space with fewer than two pairs is left out itself.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {space: [] for space in SPACES}
    with engine.evaluating() as objective:
        for batch in batches:
            moved = batch.to(engine.device)
            each: Embeddings = objective.model(moved)  # type: ignore[operator]
            has_audio, has_text = moved.audio_mask, moved.text_mask[:, 0]
            found["va"].append((each.video_va[has_audio], each.audio_va[has_audio]))
            found["vt"].append((each.video_vt[has_text], each.text_vt[has_text, 0]))
    health: dict[str, float] = {}
    for space, parts in found.items():
        sides = (torch.cat(rows).float() for rows in zip(*parts, strict=True))
        pairs = [functional.normalize(side) for side in sides]
        if pairs and len(pairs[0]) > 1:
            measured = measure_pairs(*pairs)
            health |= {f"{name}_{space}": value for name, value in measured.items()}
    return health


def measure_pairs(video: Float[Tensor, "N E"], other: Float[Tensor, "N E"]) -> dict[str, float]:
    """Return the health of two or more pairs in one space: row i of each is the same clip.

    All rows have the length 1.

    - alignment: the mean squared distance in a pair, 0 to 4; 2 where the two are unrelated.
    - uniformity: the log of the mean of exp(-2 d^2) over the distances d of other clips of the same
      modality, as the mean of both modalities; 0 where all are one point, -4 where they fill a
      sphere. This and alignment are those of Wang and Isola (Understanding contrastive
      representation learning through alignment and uniformity on the hypersphere, 2020).
    - directions: in how many the embeddings vary (the exponential of the entropy of the singular
      values of their scatter), the smaller of both modalities.
    - r1: the share of videos found first by the other modality.
    - rank: the mean place of the right video, 0 first to 1 last; 0.5 is chance.
    - pairs: how many there are.
    """
    right = (other * video).sum(1, keepdim=True)
    scores = other @ video.T
    is_wrong = ~torch.eye(len(video), dtype=torch.bool, device=video.device)
    # Half of the equal scores count as better: a network that embeds all alike is at chance.
    better = ((scores > right) & is_wrong).sum(1) + ((scores == right) & is_wrong).sum(1) / 2
    kernels = [functional.pdist(rows).square().mul(-2).exp().mean() for rows in (video, other)]
    return {
        "alignment": float((video - other).square().sum(1).mean()),
        "uniformity": float((kernels[0].log() + kernels[1].log()) / 2),
        "directions": min(_count_directions(video), _count_directions(other)),
        "r1": float((better < 0.5).float().mean()),
        "rank": float(better.mean() / (len(video) - 1)),
        "pairs": float(len(video)),
    }


def _count_directions(rows: Float[Tensor, "N E"]) -> float:
    values = torch.linalg.svdvals(rows - rows.mean(0))
    if float(values.sum()) < 1e-6 * len(rows):  # all the same
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def find_collapse(health: Mapping[str, float], *, is_warm: bool) -> list[str]:
    """Return in words what is wrong; retrieval at chance is wrong after the warm-up only."""
    problems = []
    for space, modalities in SPACES.items():
        if f"pairs_{space}" not in health:
            continue
        directions, rank = health[f"directions_{space}"], health[f"rank_{space}"]
        if directions < COLLAPSED_RANK:
            problems.append(
                f"the embeddings of {modalities} have collapsed: "
                f"they vary in {directions:.1f} directions"
            )
        # The mean of N places, each uniform on [0, 1] by chance.
        deviation = 1 / math.sqrt(12 * health[f"pairs_{space}"])
        if is_warm and rank > 0.5 - CHANCE_DEVIATIONS * deviation:
            problems.append(
                f"retrieval between {modalities} is at chance: mean rank {rank:.2f} of 0 to 1"
            )
    return problems


def summarise_learning(
    rows: Sequence[Mapping[str, float]], num_steps: int
) -> dict[str, dict[str, float]]:
    """Return what retrieval learned, by space, from the health at all steps that were measured.

    `r1` and `rank` are those of the last step, as in `measure_pairs`; those at step 0 end in
    `before`, those of chance in `chance`. A space is left out unless both steps were measured, on
    as many pairs: a run that goes on may be measured otherwise than it began.
    """
    learned: dict[str, dict[str, float]] = {}
    if not rows or (rows[0]["step"], rows[-1]["step"]) != (0, num_steps):
        return learned
    first, last = rows[0], rows[-1]
    for space in SPACES:
        pairs = last.get(f"pairs_{space}")
        if pairs is not None and pairs == first.get(f"pairs_{space}"):
            learned[space] = {"pairs": pairs}
            for name, chance in (("r1", 1 / pairs), ("rank", 0.5)):
                before, after = (row[f"{name}_{space}"] for row in (first, last))
                learned[space] |= {name: after, f"{name}_before": before, f"{name}_chance": chance}
    return learned


def describe_learning(learned: Mapping[str, Mapping[str, float]]) -> str:
    """Return what `summarise_learning` found as one line; empty where nothing was measured."""
    parts = [
        f"{SPACES[space]} R@1 {own['r1']:.1%} (before {own['r1_before']:.1%}, chance "
        f"{own['r1_chance']:.1%}), mean rank {own['rank']:.2f} (before {own['rank_before']:.2f}, "
        f"chance 0.50) of {own['pairs']:.0f} pairs"
        for space, own in learned.items()
    ]
    return f"retrieval on validation clips: {'; '.join(parts)}" if parts else ""


def require_memory(model: Vatt, recipe: PretrainRecipe, num_clips: int) -> None:
    """Compare what this rank will hold, by formula, with what is free on its GPU or on its node.

    It computes `num_clips` at once; `model` has its weights already. The formula (docs/scaling.md)
    leaves out what is small, so that what it refuses would have failed; on CPUs the first rank of a
    node answers for all there.

    Raises:
        StageError: there is too little; the message names node, need and what is free.
    """
    launch, local_rank = recipe.launch, int(os.environ.get("LOCAL_RANK", "0"))
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    has_gpus = torch.cuda.is_available()
    if not has_gpus and local_rank > 0:
        return
    weights = add_costs(count_weights(model).values())
    state = estimate_state_bytes(weights, launch.num_processes, launch.zero_stage)
    rate = recipe.model.drop_token_rate
    left = estimate_activations(model, recipe.clip, rate, launch.precision)
    again = left.between + left.again
    one_clip = left.clip + (again if launch.recompute_activations else left.kept)
    if has_gpus:
        # What lies in the memory of the CPU while a GPU trains.
        if launch.offload != "none":
            state -= FLOAT_BYTES * weights.trainable * 3 / launch.num_processes
        if launch.offload == "optimizer_and_parameters":
            state -= FLOAT_BYTES * sum(weights) / launch.num_processes
        free, where = torch.cuda.mem_get_info(local_rank)[0], f"GPU {local_rank}"
        num_here = 1
    else:
        state -= FLOAT_BYTES * sum(weights)  # these are there already
        free, where = _find_free_bytes(), "the machine"
    need = num_here * (state + num_clips * one_clip)
    if need > free:
        raise StageError(
            f"{socket.gethostname()}: too little memory: {num_here} processes there need "
            f"{need / GIB:.1f} GiB ({num_here * state / GIB:.1f} for weights, gradients and Adam, "
            f"{num_here * num_clips * one_clip / GIB:.1f} for {num_clips} clips each, by "
            f"docs/scaling.md), and {where} has {free / GIB:.1f} GiB free. More processes, "
            "launch.zero_stage, launch.offload or launch.recompute_activations need less"
        )


def _find_free_bytes() -> int:
    """Return the memory that processes can still get here, in a container within its limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used, details = (
            (CONTAINER / f"memory.{name}").read_text(encoding="utf-8")
            for name in ("max", "current", "stat")
        )
    except OSError:
        return free
    if not limit.strip().isdigit():  # "max"
        return free
    # Pages of files that nobody has read of late are given back when memory is asked for.
    pages = dict(line.split() for line in details.splitlines())
    return min(free, int(limit) - int(used) + int(pages.get("inactive_file", 0)))
