"""Tunes in a process of its own, which forks: python -m tests.stages.tuned_twice TASK.

The current folder has data/preprocess and data/pretrain. Prepares it in two processes at once. Then
tunes it as it is, and again after the split test has become useless: its shards are folders, its
rows lie. Prints the path of every file that any of the processes opened below data, in lines that
start with `opened:`.
"""

import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from tests.stages.test_finetune import pass_validation, sections
from vatt.params import TASKS, TaskName, TuneParams
from vatt.stages.tune import STUDIES_DIR, main

TUNE = TuneParams.model_validate(
    {
        "num_trials": 3,
        "num_random_trials": 2,
        "num_parallel": 1,
        "num_workers": 1,
        "threads_per_worker": 1,
        "storage": None,
        "heartbeat_s": 60,
        "max_restarts": 0,
        "prune": None,
        "space": {
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "drop_token_rate": {"choices": [0.0, 0.5]},
        },
        "task_space": {},
    }
)


NUM_ROUNDS = 5
POISON = '{"letter": ["poison"]}'


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


def prepare(task: TaskName) -> None:
    """Do all of tune but the training."""
    main(**sections(task), tune=TUNE.model_copy(update={"num_trials": 1}))


def prepare_often(task: TaskName) -> None:
    """What a worker may be reading stays where it is."""
    (corpus_dir,) = STUDIES_DIR.glob("corpus-*")
    (weights_path,) = Path(".cache/finetune", task).glob("initial-*")
    folders = (corpus_dir, corpus_dir / "shards")
    before, weights = [path.stat().st_ino for path in folders], weights_path.read_bytes()
    for _ in range(NUM_ROUNDS):
        prepare(task)
        after = [path.stat().st_ino for path in folders]
        assert (after, weights_path.read_bytes()) == (before, weights)


def prepare_at_once(task: TaskName) -> None:
    """Let two processes prepare the same trials."""
    prepare(task)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=prepare_often, args=(task,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


if __name__ == "__main__":
    task = next(name for name in TASKS if name == sys.argv[1])
    torch.set_num_threads(1)  # before all forks
    sys.addaudithook(print_what_is_opened)
    pass_validation()
    prepare_at_once(task)
    for out in ("healthy", "poisoned"):
        if out == "poisoned":
            poison_test_split()
        pass_validation()
        main(**sections(task), tune=TUNE)
        shutil.move(f"data/tune/{task}", f"data/{out}")
