"""Fine-tunes in child processes that are killed with -9, then to the end; prints the steps reached.

Usage: python -m tests.stages.killed_finetune WHOLE KILLED SEED NUM_KILLS, two folders as `finetune`
finds them; in the first one it is not killed. Children are forked after the slow imports.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import torch

from tests.stages.test_finetune import LETTER, request
from vatt.stages.finetune import main as finetune

NUM_STEPS = 12
SCHEDULE = LETTER.schedule.model_copy(
    update={
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "mixup_alpha": 0.4,
        "drop_token_rate": 0.25,
        "head_dropout_rate": 0.25,
        "layer_decay": 0.7,
    }
)


def train_to_the_end(folder: str) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    wanted = request(
        num_steps=NUM_STEPS,
        log_every_steps=1,
        checkpoint_every_steps=3,
        validate_every_steps=4,
        ema_decay=0.9,
        schedule=SCHEDULE.model_dump(),
    )
    finetune("video", wanted)


def fork(folder: str) -> ForkProcess:
    child = multiprocessing.get_context("fork").Process(target=train_to_the_end, args=(folder,))
    child.start()
    return child


def find_curves(folder: str) -> list[Path]:
    return list(Path(folder, ".cache/finetune/video").glob("*/curve.jsonl"))


def count_steps(folder: str) -> int:
    """Return how many steps the curve holds; a resumed run begins with those of its checkpoint."""
    return sum(len(path.read_bytes().splitlines()) for path in find_curves(folder))


def kill_on_the_way(folder: str, generator: random.Random) -> None:
    """Start training and kill it some steps later, anywhere in a step or in a checkpoint."""
    fatal_step = min(count_steps(folder) + generator.randint(1, 6), NUM_STEPS - 1)
    for path in find_curves(folder):
        path.unlink()
    child = fork(folder)
    while child.is_alive() and count_steps(folder) < fatal_step:
        time.sleep(0.001)
    time.sleep(generator.random() * 0.1)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    print(count_steps(folder), flush=True)  # or the next child prints it again


def main() -> None:
    whole, killed, seed, num_kills = sys.argv[1:]
    generator = random.Random(int(seed))
    for _ in range(int(num_kills)):
        kill_on_the_way(killed, generator)
    for folder in (whole, killed):
        child = fork(folder)
        child.join()
        assert child.exitcode == 0


if __name__ == "__main__":
    # Slow, so once, before the forks.
    import deepspeed.compile.inductor  # noqa: F401
    import torch.utils.tensorboard

    main()
