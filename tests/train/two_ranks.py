"""One of two ranks that train on halves of the same batches, under each ZeRO stage in turn."""

import json
import sys
from pathlib import Path

import torch

from tests.train.corpus import (
    LAUNCH,
    MODEL,
    PRETRAIN,
    SHARED_MODEL,
    build_objective,
    make_batch,
    take_rows,
)
from vatt.params import ModelParams
from vatt.train.engine import Engine
from vatt.train.optimizer import adam_settings, build_optimizer


def train_half(zero_stage: int, num_steps: int, directory: Path, model: ModelParams) -> None:
    objective = build_objective(model)
    launch = LAUNCH.model_copy(update={"num_processes": 2, "zero_stage": zero_stage})
    engine = Engine(objective, build_optimizer(objective.parameters(), PRETRAIN), PRETRAIN, launch)
    rank, half = torch.distributed.get_rank(), PRETRAIN.batch_size // 2
    rows = []
    for step in range(1, num_steps + 1):
        batch = take_rows(make_batch(step), slice(rank * half, rank * half + half))
        losses = engine.compute_losses(batch)
        norm = engine.update(losses[0], adam_settings(step, PRETRAIN))
        mean = losses.detach().clone()
        torch.distributed.all_reduce(mean)
        rows.append([*(mean / 2).tolist(), norm])
    weights = engine.gather_weights()
    if rank == 0:
        (directory / f"{zero_stage}.json").write_text(json.dumps(rows))
        torch.save(weights, directory / f"{zero_stage}.pt")


if __name__ == "__main__":
    params = SHARED_MODEL if sys.argv[3] == "shared" else MODEL
    for stage in range(4):
        train_half(stage, int(sys.argv[2]), Path(sys.argv[1]), params)
