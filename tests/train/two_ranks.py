"""One of two ranks that train on halves of the same batches under each ZeRO stage and offload.

Usage: python -m tests.train.two_ranks DIRECTORY PHASE. A run has three phases; before the first,
losses are written step by step.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.train.corpus import (
    MODEL,
    PRETRAIN,
    SHARED_MODEL,
    build_engine,
    build_run,
    make_batch,
    take_rows,
)
from vatt.core.batch import Batch
from vatt.core.distributed import rank, world_size
from vatt.core.errors import StageError
from vatt.params import ModelParams
from vatt.train.loop import train
from vatt.train.pretraining import adam_settings

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"zero_{stage}": {"zero_stage": stage} for stage in range(4)},
    "offload_2": {"zero_stage": 2, "offload": "optimizer"},
    "offload_3": {"zero_stage": 3, "offload": "optimizer_and_parameters"},
}
PHASED = [name for name in VARIANTS if name.startswith("zero")]
NUM_STEPS = PRETRAIN.num_steps
LAST_STEPS = (2, 4, 6)
"""Of each phase."""


def take_share(batch: Batch) -> Batch:
    """Return this rank's clips of a batch."""
    size = len(batch.video) // world_size()
    return take_rows(batch, slice(rank() * size, (rank() + 1) * size))


def write_losses(variant: str, num_steps: int, directory: Path, model: ModelParams) -> None:
    """Train, and write losses, gradient norms and weights."""
    engine = build_engine(model, num_processes=2, **VARIANTS[variant])
    rows = []
    for step in range(1, num_steps + 1):
        losses = engine.compute_losses(take_share(make_batch(step)))
        norm = engine.update(losses[0], [adam_settings(step, PRETRAIN)])
        mean = losses.detach().clone()
        torch.distributed.all_reduce(mean)
        rows.append([*(mean / 2).tolist(), norm])
    weights = engine.gather_weights()
    if rank() == 0:
        (directory / f"{variant}.json").write_text(json.dumps(rows))
        torch.save(weights, directory / f"{variant}.pt")


def train_until(last_step: int, num_processes: int, directory: Path) -> None:
    """Go on with the run of each variant until the data ends after `last_step`, a checkpoint."""

    def open_batches(start_step: int) -> Iterator[Batch]:
        return (take_share(make_batch(step)) for step in range(start_step + 1, last_step + 1))

    for variant in PHASED:
        updates = {"checkpoint_every_steps": 2, "log_every_steps": 1}
        pretrain = PRETRAIN.model_copy(update=updates)
        engine = build_engine(pretrain=pretrain, num_processes=num_processes, **VARIANTS[variant])
        try:
            train(engine, *build_run(directory / variant, pretrain, open_batches))
        except StageError as error:
            assert "the data ended" in str(error)  # noqa: PT017


if __name__ == "__main__":
    directory, phase = Path(sys.argv[1]), int(sys.argv[2])
    if phase == 1:
        for name in VARIANTS:
            write_losses(name, NUM_STEPS, directory / "specific", MODEL)
        for name in ("zero_1", "zero_3"):
            write_losses(name, 3, directory / "shared", SHARED_MODEL)
    train_until(LAST_STEPS[phase - 1], 2, directory)
