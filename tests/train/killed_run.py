"""Trains in child processes that are killed with -9, then to the end; prints the steps reached.

Usage: python -m tests.train.killed_run DIRECTORY SEED NUM_KILLS. Children are forked after the
slow imports, so that many kills take seconds.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from tests.train.corpus import MODEL, PRETRAIN, build_engine, build_plan, open_batches
from vatt.train.loop import train

NUM_STEPS = 24


def train_to_the_end(directory: Path) -> None:
    sys.stderr = (directory / "stderr.log").open("a")
    model = MODEL.model_copy(update={"dropout_rate": 0.1, "drop_token_rate": 0.5})
    pretrain = PRETRAIN.model_copy(update={"num_steps": NUM_STEPS, "log_every_steps": 1})
    engine = build_engine(model, pretrain)
    train(engine, open_batches, build_plan(directory, pretrain))
    torch.save(engine.gather_weights(), directory / "weights.pt")


def count_steps(directory: Path) -> int:
    """Return how many steps the curve holds; a resumed run begins with those of its checkpoint."""
    path = directory / "curve.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def kill_on_the_way(directory: Path, generator: random.Random) -> None:
    """Start training and kill it some steps later, anywhere in a step or in a checkpoint."""
    child = multiprocessing.get_context("fork").Process(target=train_to_the_end, args=(directory,))
    fatal_step = min(count_steps(directory) + generator.randint(1, 8), NUM_STEPS - 1)
    (directory / "curve.jsonl").unlink(missing_ok=True)
    child.start()
    while child.is_alive() and count_steps(directory) < fatal_step:
        time.sleep(0.001)
    time.sleep(generator.random() * 0.1)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    print(count_steps(directory), flush=True)  # or the next child prints it again


def main() -> None:
    directory, generator = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    for _ in range(int(sys.argv[3])):
        kill_on_the_way(directory, generator)
    train_to_the_end(directory)


if __name__ == "__main__":
    # Slow, so once, before the forks.
    import deepspeed.compile.inductor  # noqa: F401
    import torch.utils.tensorboard

    main()
