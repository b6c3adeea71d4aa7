"""Pre-trains in child processes that are killed with -9, then to the end; prints the steps reached.

Usage: python -m tests.stages.killed_pretrain WHOLE KILLED SEED NUM_KILLS, two folders as `pretrain`
finds them; in the first one it is not killed.
"""

import os
import random
import sys
from functools import partial
from pathlib import Path

import torch

from tests.kills import kill_on_the_way, train_to_the_end
from tests.stages.conftest import EXPORTED
from tests.tiny import LOSS
from tests.train.corpus import LAUNCH, PRETRAIN
from vatt.params import RunParams
from vatt.stages.pretrain import main as pretrain

MODEL = EXPORTED.model.model_copy(update={"dropout_rate": 0.1, "drop_token_rate": 0.5})


def train(folder: str, num_steps: int) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    updates = {"num_steps": num_steps, "batch_size": 4, "checkpoint_every_steps": 3}
    params = PRETRAIN.model_copy(update={**updates, "log_every_steps": 1})
    launch = LAUNCH.model_copy(update={"loader_workers": 1})
    pretrain(RunParams(seed=3), EXPORTED.clip, MODEL, LOSS, params, launch)


def main() -> None:
    whole, killed, seed, num_kills = sys.argv[1:]
    generator, num_steps = random.Random(int(seed)), 10 + 8 * int(num_kills)
    for _ in range(int(num_kills)):
        kill_on_the_way(
            partial(train, killed, num_steps),
            partial(Path(killed, "metrics").glob, "pretrain_curve.jsonl"),
            num_steps,
            generator,
        )
    for folder in (whole, killed):
        train_to_the_end(partial(train, folder, num_steps))


if __name__ == "__main__":
    # Slow, so once, before the forks.
    import deepspeed.compile.inductor  # noqa: F401
    import torch.utils.tensorboard

    main()
