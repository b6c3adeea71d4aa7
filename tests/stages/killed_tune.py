"""Tunes with two workers and real training, in peace and with a kill -9 of one of them.

Usage: python -m tests.stages.killed_tune WHOLE KILLED, two folders as `tune` finds them. Every
measurement is a line of measured.jsonl in the folder. Both are forked after the slow imports.
"""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import torch

from tests.stages.test_finetune import LETTER, sections
from tests.stages.tuned_twice import TUNE
from vatt.launch.launcher import launch
from vatt.stages import tune
from vatt.train.finetuning import OnValidation
from vatt.train.recipe import Job

SECTIONS = sections(
    num_steps=6,
    checkpoint_every_steps=2,
    validate_every_steps=2,
    schedule=LETTER.schedule.model_copy(update={"optimizer": "adamw"}).model_dump(),
)
TWO = TUNE.model_copy(update={"num_workers": 2, "num_parallel": 2, "max_restarts": 1})
FATAL = ("trial-0001", 4)


def train_and_log(job: Job, on_validation: OnValidation) -> None:
    """Train, write down what is measured, and die once where the folder is to see a kill."""

    def log(step: int, numbers: dict[str, float]) -> None:
        with Path("measured.jsonl").open("a") as file:
            file.write(json.dumps([job.directory.name, step, numbers["loss"]]) + "\n")
        on_validation(step, numbers)
        if (job.directory.name, step) == FATAL and Path("is-to-be-killed").exists():
            Path("is-to-be-killed").unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    launch(job, log)


def tune_in(folder: str) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    with mock.patch.object(tune, "launch_job", train_and_log):
        tune.main(**SECTIONS, tune=TWO)


if __name__ == "__main__":
    # Slow, so once, before the forks.
    import deepspeed.compile.inductor  # noqa: F401
    import torch.utils.tensorboard

    Path(sys.argv[2], "is-to-be-killed").touch()
    for folder in sys.argv[1:]:
        child = multiprocessing.get_context("fork").Process(target=tune_in, args=(folder,))
        child.start()
        child.join()
        assert child.exitcode == 0
