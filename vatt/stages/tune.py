"""Stage `tune`: the search for the schedule of a task (Optuna), on the split validation."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vatt.atomic import atomic_path
from vatt.data.labelled import UnlabelledError
from vatt.data.splits import hide_test_split
from vatt.interop.export import read_export_params
from vatt.params import (
    ClipParams,
    FinetuneParams,
    LaunchParams,
    RunParams,
    TaskName,
    TuneParams,
)
from vatt.stages.finetuning import (
    PREPROCESS_DIR,
    PRETRAIN_DIR,
    Prepared,
    Request,
    prepare_task,
    skip_task,
)
from vatt.train.engine import preload
from vatt.train.finetuning import train_classifier
from vatt.train.jobs.finetuning import give_schedule
from vatt.tuning.crew import run_workers
from vatt.tuning.outcome import write_figures, write_outcome
from vatt.tuning.plan import CODE, Plan
from vatt.tuning.study import read_results
from vatt.tuning.worker import OnValidation, Train

OUT_DIR = Path("data/tune")
STUDIES_DIR = Path(".cache/tune")


def main(
    task: TaskName,
    run: RunParams,
    clip: ClipParams,
    finetune: FinetuneParams,
    tune: TuneParams,
    launch: LaunchParams,
) -> Mapping[str, Any]:
    """Try schedules for a task, and write the best one, all trials and their figures.

    A study that was killed goes on. A task is left out, and says so, where the corpus has no labels
    for it or nothing to measure with.

    Raises:
        StageError: the corpus was not validated, what training starts from does not fit, training
            failed, or the storage cannot be used.
    """
    torch.set_num_threads(1)  # before workers are forked, this process must have no others
    alone = {
        "num_processes": 1,
        "threads_per_process": tune.threads_per_worker,
        "launcher": "local",
    }
    model = read_export_params(PRETRAIN_DIR).model
    try:
        request = Request(run, clip, model, finetune, launch.model_copy(update=alone))
        prepared = prepare_task(task, request)
    except UnlabelledError as error:
        return skip_task(OUT_DIR / task, str(error))
    if not len(prepared.corpus.splits["validation"]):
        return skip_task(OUT_DIR / task, "the split validation has no segment to measure with")
    for note in prepared.corpus.notes:
        print(f"tune {task}: {note}", file=sys.stderr)
    corpus_dir = STUDIES_DIR / f"{task}-corpus"
    hide_test_split(PREPROCESS_DIR, corpus_dir)
    plan = _make_plan(task, run, tune, prepared)
    preload()
    run_workers(plan, STUDIES_DIR, _build_training(prepared, corpus_dir))
    trials = read_results(plan, STUDIES_DIR)
    with atomic_path(OUT_DIR / task) as folder:
        folder.mkdir()
        metrics = write_outcome(plan, trials, folder)
        write_figures(trials, folder)
    return metrics


def _make_plan(task: TaskName, run: RunParams, tune: TuneParams, prepared: Prepared) -> Plan:
    """Return what decides the study."""
    params = prepared.recipe.task.model_dump(mode="json")
    training = {
        "data": prepared.recipe.index_digest,
        "checkpoint": prepared.initial_digest,
        "classes": list(prepared.recipe.classes),
        "task": {name: value for name, value in params.items() if name != "schedule"},
        CODE: prepared.job.directory.name,
    }
    return Plan(task, run.seed, tune, params["schedule"], training)


def _build_training(prepared: Prepared, corpus_dir: Path) -> Train:
    """Return how a schedule is tried, on a corpus without the split test."""
    measure = "map" if prepared.recipe.task.multi_label else "accuracy"
    job = prepared.job.model_copy(update={"preprocess_dir": corpus_dir})

    def train(schedule: Mapping[str, Any], directory: Path, on_validation: OnValidation) -> None:
        chosen = give_schedule(job, schedule, directory)
        train_classifier(chosen, lambda step, numbers: on_validation(step, numbers[measure]))

    return train
