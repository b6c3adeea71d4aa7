"""Tunes in a process of its own, which forks: python -m tests.stages.tuned_twice TASK.

The current folder has data/preprocess and data/pretrain. Tunes it as it is, then in data/poisoned
after the split test has become useless: its shards are folders, its rows lie. Prints the path of
every file that any of the processes opened below data, in lines that start with `opened:`.
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.stages.conftest import EXPORTED
from tests.stages.test_finetune import RUN, params_with
from tests.train.corpus import LAUNCH
from vatt.atomic import write_json
from vatt.params import TASKS, TuneParams
from vatt.stages.tune import main

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


def tell_what_is_opened(event: str, arguments: tuple[object, ...]) -> None:
    """Print the paths of opened files; a fork keeps this hook."""
    if event == "open" and isinstance(arguments[0], str | bytes):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(os.path.realpath("data")):
            os.write(1, f"opened: {path}\n".encode())


def pass_validation() -> None:
    content = Path("data/preprocess/index.parquet").read_bytes()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    write_json(Path("metrics/validate.json"), {"passed": True, "index_digest": digest})


def poison_test_split() -> None:
    """Make whatever comes of the split test fail or be wrong."""
    path = Path("data/preprocess/index.parquet")
    index = pq.read_table(path)
    is_test = pc.equal(index["split"], "test")
    for shard in set(index.filter(is_test)["shard"].to_pylist()):
        (path.parent / "shards" / shard).unlink()
        (path.parent / "shards" / shard).mkdir()
    for name in ("video_offset", "video_bytes", "audio_offset", "audio_bytes"):
        lies = pc.if_else(is_test, pa.scalar(-1, pa.int64()), index[name])
        index = index.set_column(index.schema.get_field_index(name), index.schema.field(name), lies)
    pq.write_table(index, path)


if __name__ == "__main__":
    task = next(name for name in TASKS if name == sys.argv[1])
    sys.addaudithook(tell_what_is_opened)
    for out in ("healthy", "poisoned"):
        if out == "poisoned":
            poison_test_split()
        pass_validation()
        main(task, RUN, EXPORTED.clip, params_with(), TUNE, LAUNCH)
        shutil.move(f"data/tune/{task}", f"data/{out}")
