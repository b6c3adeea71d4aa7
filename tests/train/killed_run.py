"""Trains in child processes that are killed with -9, then to the end; prints the killed steps.

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

from tests.train.corpus import MODEL, PRETRAIN, build_engine, open_batches
from vatt.train.loop import Plan, train

NUM_STEPS = 24


def train_to_the_end(directory: Path) -> None:
    sys.stderr = (directory / "stderr.log").open("a")
    model = MODEL.model_copy(update={"dropout_rate": 0.1, "drop_token_rate": 0.5})
    pretrain = PRETRAIN.model_copy(update={"num_steps": NUM_STEPS, "log_every_steps": 1})
    engine = build_engine(model, pretrain)
    train(engine, open_batches, Plan(7, pretrain, directory / "run", directory / "curve.jsonl"))
    torch.save(engine.gather_weights(), directory / "weights.pt")


def count_steps(directory: Path) -> int:
    try:
        return len((directory / "curve.jsonl").read_bytes().splitlines())
    except FileNotFoundError:
        return 0


def main() -> None:
    directory, generator = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    fork = multiprocessing.get_context("fork")
    for _ in range(int(sys.argv[3])):
        child = fork.Process(target=train_to_the_end, args=(directory,))
        before = count_steps(directory)
        child.start()
        fatal_step = generator.randint(1, NUM_STEPS - 1)
        while child.is_alive() and not before < fatal_step <= count_steps(directory):
            if count_steps(directory) > before and fatal_step <= before:
                break  # it has resumed and goes on
            time.sleep(0.001)
        time.sleep(generator.random() * 0.1)
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        print(count_steps(directory))
    train_to_the_end(directory)


if __name__ == "__main__":
    import deepspeed  # noqa: F401 - before the forks, for speed

    main()
