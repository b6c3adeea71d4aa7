"""Trains in child processes that are killed with -9, then to the end; prints the steps reached.

Usage: python -m tests.stages.killed_training STAGE WHOLE KILLED SEED NUM_KILLS, two folders as
`pretrain` or `finetune` finds them; in the first one it is not killed.
"""

import multiprocessing
import os
import random
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.stages.conftest import EXPORTED, LETTER, RUN, sections
from tests.tiny import LOSS
from tests.train.corpus import LAUNCH, PRETRAIN
from vatt.stages.finetune import main as finetune
from vatt.stages.pretrain import main as pretrain

MODEL = EXPORTED.model.model_copy(update={"dropout_rate": 0.1, "drop_token_rate": 0.5})
OFTEN: dict[str, Any] = {"log_every_steps": 1, "checkpoint_every_steps": 3}
SCHEDULE: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 1e-3, "layer_decay": 0.7}
SCHEDULE |= {"mixup_alpha": 0.4, "drop_token_rate": 0.25, "head_dropout_rate": 0.25}
CURVES = {"pretrain": "metrics/pretrain_curve.jsonl"}
CURVES["finetune"] = ".cache/finetune/video/*/curve.jsonl"


class Training(NamedTuple):
    """A stage that trains for some steps."""

    stage: str
    num_steps: int

    def run(self, folder: str) -> None:
        os.chdir(folder)
        torch.set_num_threads(1)
        updates = {"num_steps": self.num_steps, **OFTEN}
        if self.stage == "pretrain":
            params = PRETRAIN.model_copy(update={"batch_size": 4, **updates})
            launch = LAUNCH.model_copy(update={"loader_workers": 1})
            pretrain(RUN, EXPORTED.clip, MODEL, LOSS, params, launch)
        else:
            updates |= {"schedule": {**LETTER.schedule.model_dump(), **SCHEDULE}}
            finetune(**sections(validate_every_steps=4, ema_decay=0.9, **updates))

    def start(self, folder: str) -> ForkProcess:
        child = multiprocessing.get_context("fork").Process(target=self.run, args=(folder,))
        child.start()
        return child

    def kill_on_the_way(self, folder: str, generator: random.Random) -> None:
        """Train, kill it some steps later, in a step or in a checkpoint; print how far it came.

        A curve has a line for each step; that of a resumed run begins with those of its checkpoint.
        """

        def count_steps() -> int:
            curves = Path(folder).glob(CURVES[self.stage])
            return sum(len(path.read_bytes().splitlines()) for path in curves)

        fatal_step = min(count_steps() + generator.randint(1, 6), self.num_steps - 1)
        for path in Path(folder).glob(CURVES[self.stage]):
            path.unlink()
        child = self.start(folder)
        while child.is_alive() and count_steps() < fatal_step:
            time.sleep(0.001)
        time.sleep(generator.random() * 0.1)
        child.kill()
        child.join()
        print(count_steps(), flush=True)  # or the next child prints it again


def main() -> None:
    stage, whole, killed, seed, num_kills = sys.argv[1:]
    generator = random.Random(int(seed))
    training = Training(stage, 12 if stage == "finetune" else 10 + 8 * int(num_kills))
    for _ in range(int(num_kills)):
        training.kill_on_the_way(killed, generator)
    for folder in (whole, killed):
        child = training.start(folder)
        child.join()
        assert child.exitcode == 0


if __name__ == "__main__":
    # Slow, so once, before the forks.
    import deepspeed.compile.inductor  # noqa: F401
    import torch.utils.tensorboard

    main()
