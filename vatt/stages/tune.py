"""Stage `tune`: the search for the schedule of a task (Optuna), on the split validation."""

import dataclasses
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.gate import require_passed
from vatt.corpus.index import SHARDS_NAME
from vatt.corpus.splits import hide_test_split
from vatt.launch.launcher import train_classifier
from vatt.loading.colour import load_compiled
from vatt.loading.labelled import UnlabelledError
from vatt.params import TaskName, TuneParams
from vatt.stages.finetuning import (
    PREPROCESS_DIR,
    VERDICT_PATH,
    Prepared,
    Request,
    prepare_task,
    skip_task,
)
from vatt.train.engine import preload
from vatt.train.finetuning import give_schedule
from vatt.train.recipe import NO_EFFECT
from vatt.tune.storage import hold
from vatt.tune.study import read_results
from vatt.tune.trials import CODE, Plan, keep_own, write_figures, write_outcome
from vatt.tune.workers import OnValidation, Train, run_workers

OUT_DIR = Path("data/tune")
STUDIES_DIR = Path(".cache/tune")
FILES_LOCK = STUDIES_DIR / "files.lock"
"""Held while files are written that another `tune` of the same folder may write, too."""


def main(task: TaskName, request: Request, tune: TuneParams) -> Mapping[str, Any]:
    """Try schedules for a task, and write the best one, all trials and their figures.

    A study that was killed goes on. A task is left out, and says so, where the corpus has no labels
    for it or nothing to measure with.

    Raises:
        StageError: the corpus was not validated, what training starts from does not fit, training
            failed, or the storage cannot be used.
    """
    torch.set_num_threads(1)  # before workers are forked, this process must have no others
    with hold(FILES_LOCK):
        try:
            prepared = prepare_trials(task, request, tune)
        except UnlabelledError as error:
            return skip_task(OUT_DIR / task, str(error))
        if not len(prepared.corpus.splits["validation"]):
            reason = "the split validation has no segment to measure with"
            return skip_task(OUT_DIR / task, reason)
    for note in prepared.corpus.notes:
        print(f"tune {task}: {note}", file=sys.stderr)
    plan = make_plan(task, tune, prepared)
    if tune.num_trials == 1:  # nothing to compare it with
        trials = keep_own(plan)
    else:
        train = _build_training(prepared)
        preload()
        load_compiled()
        run_workers(plan, STUDIES_DIR, train)
        trials = read_results(plan, STUDIES_DIR)
    with hold(FILES_LOCK), atomic_path(OUT_DIR / task) as folder:
        folder.mkdir()
        metrics = write_outcome(plan, trials, folder)
        write_figures(trials, folder)
    return metrics


def prepare_trials(task: TaskName, request: Request, tune: TuneParams) -> Prepared:
    """Return the training of a task as a trial does it, on a corpus without the split test.

    A trial is one process, which so computes a batch in as many parts as there were processes. What
    it reads is under names of its own: others who prepare leave it as it is.

    Raises:
        StageError, UnlabelledError: as of `prepare_task`.
    """
    corpus_dir = _hide_test_split(require_passed(PREPROCESS_DIR, VERDICT_PATH))
    params, launch = request.finetune.task(task), request.launch
    alone: dict[str, Any] = {
        "num_processes": 1,
        "threads_per_process": tune.threads_per_worker,
        "launcher": "local",
    }
    if launch.offload == "none":
        alone["zero_stage"] = 0  # as one process trains, whatever is said
    parts = {"accumulation_steps": params.accumulation_steps * launch.num_processes}
    trial = dataclasses.replace(
        request,
        finetune=request.finetune.model_copy(update={task: params.model_copy(update=parts)}),
        launch=launch.model_copy(update=alone),
    )
    return prepare_task(task, trial, corpus_dir)


def _hide_test_split(index_digest: str) -> Path:
    """Return the folder of a corpus without the split test, another one for another corpus."""
    shards = sorted(path.name for path in (PREPROCESS_DIR / SHARDS_NAME).glob("*"))
    parts = "\n".join([index_digest, str(PREPROCESS_DIR.absolute()), *shards])
    digest = hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()
    corpus_dir = STUDIES_DIR / f"corpus-{digest}"
    if not corpus_dir.exists():
        hide_test_split(PREPROCESS_DIR, corpus_dir)
    return corpus_dir


def make_plan(task: TaskName, tune: TuneParams, prepared: Prepared) -> Plan:
    """Return what decides the study: all of a recipe, by its name in params.yaml where it has one."""
    recipe = prepared.recipe.model_dump(mode="json", exclude=NO_EFFECT)
    params, launch = recipe["task"], recipe["launch"]
    own = params.pop("schedule")
    training = {
        "data": recipe["index_digest"],
        "checkpoint": prepared.initial_digest,
        "threads_per_worker": launch.pop("threads_per_process"),
        **{name: recipe[name] for name in ("classes", "clip", "network", "task", "launch")},
        "torch": torch.__version__,
        CODE: prepared.job.directory.name,
    }
    return Plan(task, prepared.recipe.run.seed, tune, own, training)


def _build_training(prepared: Prepared) -> Train:
    """Return how a schedule is tried.

    Raises:
        StageError: nothing would be measured.
    """
    if prepared.recipe.task.validate_every_steps is None:
        raise StageError(
            f"finetune.{prepared.recipe.task_name}.validate_every_steps = null: nothing would be "
            "measured; tune needs a number of steps, 1 or more, or tune.num_trials = 1"
        )
    measure = "map" if prepared.recipe.task.multi_label else "accuracy"

    def train(schedule: Mapping[str, Any], directory: Path, on_validation: OnValidation) -> None:
        chosen = give_schedule(prepared.job, schedule, directory)
        train_classifier(chosen, lambda step, numbers: on_validation(step, numbers[measure]))

    return train
