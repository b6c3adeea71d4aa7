"""Tuning in ratios: what the study costs beside its trainings, and four workers against one.

Usage: python -m benchmarks.tuning [TASK ...], in a folder where the demo was pre-trained: it reads
data/preprocess, data/pretrain, metrics/validate.json and params.yaml. What is compared is measured
in turn, each in a folder and a process of its own. Without a task all of the demo's tuning is.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vatt.params import TASKS

ROOT = Path(__file__).parents[1]
NUM_ROUNDS = 3
BARE = """
import json, sys
from pathlib import Path
import torch
from vatt.launch.launcher import launch as launch_job
from vatt.params import ScheduleParams, Task, load_params
from vatt.stages.finetune import prepare_task

class GivenUp(Exception): pass

task, params = sys.argv[1], load_params(Path("params.yaml"))
alone = {"num_processes": 1, "threads_per_process": params.tune.threads_per_worker}
launch = params.launch.model_copy(update=alone)
finetune = Task(task, params.finetune.task(task))
job, recipe, _ = prepare_task(params.run, params.clip, params.model, finetune, launch)
own = finetune.params.schedule.model_dump()
for trial in json.loads(Path("trials.json").read_text())["trials"]:
    def on_validation(step, numbers, trial=trial):
        if trial["state"] == "pruned" and step == trial["steps"][-1]["step"]:
            raise GivenUp
    schedule = ScheduleParams.model_validate({**own, **trial["schedule"]})
    folder = Path(f"bare-{trial['trial']}")
    updates = {"directory": folder, "curve_path": folder / "curve.jsonl"}
    recipe_of_trial = recipe.take_schedule(schedule)
    try:
        trial_job = job.model_copy(update={"recipe": recipe_of_trial, **updates})
        launch_job(trial_job, on_validation)
    except GivenUp:
        pass
"""
"""The trainings of a study, one after the other, without a study."""


class Spent(NamedTuple):
    """The time of a process and its children."""

    wall_s: float
    cpu_s: float


def make_folder(
    parent: Path, name: str, tune: Mapping[str, Any], launch: Mapping[str, Any] | None = None
) -> Path:
    """Return a folder where a task can be tuned anew, with other parameters."""
    folder = parent / name
    (folder / "data").mkdir(parents=True)
    for part in ("preprocess", "pretrain"):
        (folder / "data" / part).symlink_to(Path("data", part).resolve())
    shutil.copytree("metrics", folder / "metrics")
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["tune"] |= {"storage": None, **tune}
    params["launch"] |= launch or {}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return folder


def measure(command: Sequence[str], folder: Path) -> Spent:
    """Run a command in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    before, begun_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wall_s, after = time.monotonic() - begun_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(wall_s, cpu_s)


def compare_with_bare_training(parent: Path, tasks: Sequence[str]) -> None:
    """Print what study, storage and worker cost, as shares of the time of tuning some tasks."""
    tuned, bare = [], []
    for task in tasks:
        folder = make_folder(parent, f"study-{task}", {"num_workers": 1})
        tuned.append(measure(["-m", "vatt", "tune", task], folder))
        shutil.copy(folder / "data/tune" / task / "trials.json", folder)
        bare.append(measure(["-c", BARE, task], folder))
    for name in ("wall_s", "cpu_s"):
        whole, without = (sum(getattr(spent, name) for spent in row) for row in (tuned, bare))
        print(
            f"study, storage, processes, figures: {1 - without / whole:6.1%} of tuning "
            f"{', '.join(tasks)} ({name[:-2]}: {whole:.1f} s, the trainings alone {without:.1f} s)",
            flush=True,
        )


def compare_workers(parent: Path, task: str) -> None:
    """Print how much faster four workers finish eight trials than one does: medians.

    A trial is one thread, which decodes its clips, too.
    """
    spent: dict[int, list[Spent]] = {1: [], 4: []}
    study = {"num_trials": 8, "num_parallel": 4, "prune": None, "threads_per_worker": 1}
    launch = {"loader_workers": 0}
    for number in range(NUM_ROUNDS):
        for num_workers, row in spent.items():
            name = f"workers-{num_workers}-{number}"
            folder = make_folder(parent, name, {**study, "num_workers": num_workers}, launch)
            row.append(measure(["-m", "vatt", "tune", task], folder))
    one, four = (statistics.median(s.wall_s for s in row) for row in spent.values())
    print(f"four workers against one: {one / four:.2f} times as fast ({one:.1f} s, {four:.1f} s)")


def main() -> None:
    """Measure on the tasks that are named, else on all; four workers on the last of them."""
    tasks = sys.argv[1:] or list(TASKS)
    with tempfile.TemporaryDirectory() as parent:
        compare_with_bare_training(Path(parent), tasks)
        compare_workers(Path(parent), tasks[-1])


if __name__ == "__main__":
    main()
