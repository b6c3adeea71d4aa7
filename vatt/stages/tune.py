"""Stage `tune`: the search for the schedule of a task (Optuna), on the split validation."""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vatt.core.errors import StageError
from vatt.core.files import atomic_path, hold_lock
from vatt.corpus.access import hide_test_split, require_passed
from vatt.corpus.index import SHARDS_NAME
from vatt.launch.launcher import launch as launch_job
from vatt.loading.colour import load_compiled
from vatt.loading.tasks import UnlabelledError
from vatt.params import (
    ClipParams,
    LaunchParams,
    ModelParams,
    RunParams,
    ScheduleParams,
    Task,
    TuneParams,
)
from vatt.stages.finetune import PREPROCESS_DIR, VERDICT_PATH, prepare_task, skip_task
from vatt.train.engine import preload
from vatt.train.precision import find_emulation
from vatt.train.recipe import NO_EFFECT, FinetuneRecipe, Job
from vatt.tune.outcome import keep_own, write_figures, write_outcome
from vatt.tune.search import CODE, Plan
from vatt.tune.workers import OnValidation, run_workers

OUT_DIR = Path("data/tune")
STUDIES_DIR = Path(".cache/tune")
FILES_LOCK = STUDIES_DIR / "files.lock"
"""Held while files are written that another `tune` of the same folder may write, too."""


def main(
    run: RunParams,
    clip: ClipParams,
    model: ModelParams,
    finetune: Task,
    launch: LaunchParams,
    tune: TuneParams,
) -> Mapping[str, Any]:
    """Try schedules for a task, and write the best one, all trials and their figures.

    A study that was killed goes on. A task is left out, and says so, where the corpus has no labels
    for it or nothing to measure with.

    Raises:
        StageError: the corpus was not validated, what training starts from does not fit, training
            failed, or the storage cannot be used.
    """
    torch.set_num_threads(1)  # before workers are forked, this process must have no others
    out_dir = OUT_DIR / finetune.name
    with hold_lock(FILES_LOCK):
        try:
            finetune, launch = join_processes(finetune, launch, tune.threads_per_worker)
            job, recipe, corpus = prepare_task(run, clip, model, finetune, launch, hide_corpus())
        except UnlabelledError as error:
            return skip_task(out_dir, str(error))
        if not len(corpus.splits["validation"]):
            return skip_task(out_dir, "the split validation has no segment to measure with")
    for note in corpus.notes:
        print(f"tune {finetune.name}: {note}", file=sys.stderr)
    plan = make_plan(tune, job, recipe)
    trials = keep_own(plan) if tune.num_trials == 1 else _try_schedules(plan, job, recipe)
    with hold_lock(FILES_LOCK), atomic_path(out_dir) as folder:
        folder.mkdir()
        num_clips = min(len(corpus.splits["validation"]), finetune.params.validation_clips)
        metrics = write_outcome(plan, trials, num_clips, folder)
        write_figures(trials, folder)
    if metrics["value"] is not None:
        own, highest = metrics["own_value"], metrics["highest_value"]
        is_noise = metrics["trial"] == 0 and highest > own
        print(
            f"tune {finetune.name}: the schedule of params.yaml "
            f"{'was given up' if own is None else f'reaches {own:.4f}'}, the best one of "
            f"{metrics['num_trials']} {highest:.4f}"
            f"{f', which is within the noise of {num_clips} clips' if is_noise else ''}: trial "
            f"{metrics['trial']} is taken; {metrics['num_pruned']} were given up"
        )
    return metrics


def hide_corpus() -> Path:
    """Return a folder with the corpus but for the split test, another one for another corpus.

    So what a trial reads stays as it is when others tune.

    Raises:
        StageError: the corpus was not validated, or cannot be read.
    """
    shards = sorted(path.name for path in (PREPROCESS_DIR / SHARDS_NAME).glob("*"))
    index_digest = require_passed(PREPROCESS_DIR, VERDICT_PATH)
    parts = "\n".join([index_digest, str(PREPROCESS_DIR.absolute()), *shards])
    digest = hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()
    corpus_dir = STUDIES_DIR / f"corpus-{digest}"
    if not corpus_dir.exists():
        hide_test_split(PREPROCESS_DIR, corpus_dir)
    return corpus_dir


def join_processes(
    finetune: Task, launch: LaunchParams, num_threads: int
) -> tuple[Task, LaunchParams]:
    """Return task and launch of a trial: one process, which computes the parts of all."""
    num_parts = finetune.params.accumulation_steps * launch.num_processes
    task = finetune.params.model_copy(update={"accumulation_steps": num_parts})
    updates = {"num_processes": 1, "threads_per_process": num_threads, "launcher": "local"}
    if launch.offload == "none":
        updates["zero_stage"] = 0  # as one process trains, whatever is said
    return Task(finetune.name, task), launch.model_copy(update=updates)


def make_plan(tune: TuneParams, job: Job, recipe: FinetuneRecipe) -> Plan:
    """Return what decides the study: all of a recipe, by its name in params.yaml if it has one."""
    content = recipe.model_dump(mode="json", exclude=NO_EFFECT)
    own = content["task"].pop("schedule")
    training = {
        "data": recipe.index_digest,
        "checkpoint": recipe.initial_digest,
        "threads_per_worker": recipe.launch.threads_per_process,
        **{name: content[name] for name in ("classes", "clip", "network", "task", "launch")},
        "torch": torch.__version__,
        CODE: job.directory.name,
    }
    return Plan(recipe.task_name, recipe.run.seed, tune, own, training)


def _try_schedules(plan: Plan, job: Job, recipe: FinetuneRecipe) -> dict[int, Any]:
    """Make the study and return its trials.

    Raises:
        StageError: nothing would be measured, training failed, or the storage cannot be used.
    """
    if recipe.task.validate_every_steps is None:
        raise StageError(
            f"{recipe.section}.validate_every_steps = null: nothing would be measured; tune needs "
            "a number of steps, 1 or more, or tune.num_trials = 1"
        )
    if (problem := find_emulation(recipe.launch.precision)) is not None:
        print(f"tune {recipe.task_name}: {problem}", file=sys.stderr)
    measure = "map" if recipe.task.multi_label else "accuracy"

    def train(schedule: Mapping[str, Any], directory: Path, on_validation: OnValidation) -> None:
        updates = {
            "recipe": recipe.take_schedule(ScheduleParams.model_validate(dict(schedule))),
            "directory": directory,
            "curve_path": directory / "curve.jsonl",
        }
        trial = job.model_copy(update=updates)
        launch_job(trial, lambda step, numbers: on_validation(step, numbers[measure]))

    preload()
    load_compiled()
    return run_workers(plan, STUDIES_DIR, train)
