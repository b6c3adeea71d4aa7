"""Fine-tunes in child processes that are killed with -9, then to the end; prints the steps reached.

Usage: python -m tests.stages.killed_finetune WHOLE KILLED SEED NUM_KILLS, two folders as `finetune`
finds them; in the first one it is not killed.
"""

import os
import random
import sys
from functools import partial
from pathlib import Path

import torch

from tests.kills import kill_on_the_way, train_to_the_end
from tests.stages.test_finetune import LETTER, sections
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


def train(folder: str) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    values = sections(
        num_steps=NUM_STEPS,
        log_every_steps=1,
        checkpoint_every_steps=3,
        validate_every_steps=4,
        ema_decay=0.9,
        schedule=SCHEDULE.model_dump(),
    )
    finetune(**values)


def main() -> None:
    whole, killed, seed, num_kills = sys.argv[1:]
    generator = random.Random(int(seed))
    find_curves = partial(Path(killed, ".cache/finetune/video").glob, "*/curve.jsonl")
    for _ in range(int(num_kills)):
        kill_on_the_way(partial(train, killed), find_curves, NUM_STEPS, generator)
    for folder in (whole, killed):
        train_to_the_end(partial(train, folder))


if __name__ == "__main__":
    # Slow, so once, before the forks.
    import deepspeed.compile.inductor  # noqa: F401
    import torch.utils.tensorboard

    main()
