"""Tunes in processes that are forked after the slow imports.

`python -m tests.stages.tuned twice TASK`, where the current folder has data/preprocess and
data/pretrain, prepares tuning in two processes at once. Then it tunes as the data is, and again
after the split test has become useless: its shards are folders, its rows lie. It prints the path of
every file that any of the processes opened below data, in lines that start with `opened:`.

`python -m tests.stages.tuned killed WHOLE KILLED`, two folders as `tune` finds them, tunes with two
workers, in the second folder with a kill -9 of one of them. Every measurement is a line of
measured.jsonl in the folder.
"""

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from tests.stages.conftest import LETTER, pass_validation, sections
from tests.tune.conftest import TUNE as SMALL
from vatt.launch.launcher import launch
from vatt.params import TASKS, TaskName
from vatt.stages import tune
from vatt.train.finetuning import OnValidation
from vatt.train.recipe import Job

SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "drop_token_rate": {"choices": [0.0, 0.5]},
}
CHANGES = {"num_trials": 3, "num_random_trials": 2, "num_parallel": 1, "prune": None}
TUNE = SMALL.model_validate({**SMALL.model_dump(), **CHANGES, "space": SPACE})
TWO = TUNE.model_copy(update={"num_workers": 2, "num_parallel": 2, "max_restarts": 1})
NUM_ROUNDS = 5
POISON = '{"letter": ["poison"]}'
FATAL = ("trial-0001", 4)


def run_forked(function: Callable[..., None], *arguments: str, num_processes: int = 1) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=function, args=arguments) for _ in range(num_processes)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} == {0}


def print_what_is_opened(event: str, arguments: tuple[object, ...]) -> None:
    """Print the paths of opened files; a fork keeps this hook."""
    if event == "open" and isinstance(arguments[0], str | bytes):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(os.path.realpath("data")):
            os.write(1, f"opened: {path}\n".encode())


def poison_test_split() -> None:
    """Make whatever comes of the split test fail or be wrong."""
    path = Path("data/preprocess/index.parquet")
    index = pq.read_table(path)
    is_test = pc.equal(index["split"], "test")
    for shard in set(index.filter(is_test)["shard"].to_pylist()):
        (path.parent / "shards" / shard).unlink()
        (path.parent / "shards" / shard).mkdir()
    for name in ("labels", "video_offset", "video_bytes", "audio_offset", "audio_bytes"):
        lie = pa.scalar(POISON if name == "labels" else -1, index.schema.field(name).type)
        lies = pc.if_else(is_test, lie, index[name])
        index = index.set_column(index.schema.get_field_index(name), index.schema.field(name), lies)
    pq.write_table(index, path)
    pass_validation()


def prepare(task: TaskName) -> None:
    """Do all of tune but the training."""
    tune.main(**sections(task), tune=TUNE.model_copy(update={"num_trials": 1}))


def prepare_often(task: TaskName) -> None:
    """What a worker may be reading stays where it is."""
    (corpus_dir,) = tune.STUDIES_DIR.glob("corpus-*")
    (weights_path,) = Path(".cache/finetune", task).glob("initial-*")
    folders = (corpus_dir, corpus_dir / "shards")
    before, weights = [path.stat().st_ino for path in folders], weights_path.read_bytes()
    for _ in range(NUM_ROUNDS):
        prepare(task)
        after = [path.stat().st_ino for path in folders]
        assert (after, weights_path.read_bytes()) == (before, weights)


def tune_twice(task: TaskName) -> None:
    torch.set_num_threads(1)  # before all forks
    sys.addaudithook(print_what_is_opened)
    prepare(task)
    run_forked(prepare_often, task, num_processes=2)
    for out in ("healthy", "poisoned"):
        if out == "poisoned":
            poison_test_split()
        tune.main(**sections(task), tune=TUNE)
        shutil.move(f"data/tune/{task}", f"data/{out}")


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
    schedule = LETTER.schedule.model_copy(update={"optimizer": "adamw"}).model_dump()
    often: dict[str, Any] = {"checkpoint_every_steps": 2, "validate_every_steps": 2}
    with mock.patch.object(tune, "launch_job", train_and_log):
        tune.main(**sections(num_steps=6, **often, schedule=schedule), tune=TWO)


if __name__ == "__main__":
    if sys.argv[1] == "twice":
        tune_twice(next(name for name in TASKS if name == sys.argv[2]))
    else:
        # Slow, so once, before the forks.
        import deepspeed.compile.inductor  # noqa: F401
        import torch.utils.tensorboard

        whole, killed = sys.argv[2:]
        Path(killed, "is-to-be-killed").touch()
        run_forked(tune_in, whole)
        run_forked(tune_in, killed)
