"""Stage `finetune`: supervised training for one task, and the export of its classifiers."""

import json
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from vatt.atomic import atomic_path
from vatt.data.labelled import UnlabelledError, count_classes
from vatt.interop.classifier import ExportedClassifierParams, save_classifier
from vatt.models.classification.networks import build_network
from vatt.models.tower import restore_weights
from vatt.params import (
    ClipParams,
    FinetuneParams,
    LaunchParams,
    ModelParams,
    RunParams,
    ScheduleParams,
    StageError,
    TaskName,
)
from vatt.stages.finetuning import Prepared, Request, name_job, prepare_task, skip_task
from vatt.train.finetuning import train_classifier
from vatt.train.jobs.finetuning import read_validations
from vatt.train.jobs.recipes import FinetuneRecipe, Job

OUT_DIR = Path("data/finetune")
TUNE_DIR = Path("data/tune")
METRICS_DIR = Path("metrics")


def main(
    task: TaskName,
    run: RunParams,
    clip: ClipParams,
    model: ModelParams,
    finetune: FinetuneParams,
    launch: LaunchParams,
) -> Mapping[str, Any]:
    """Train for a task with the schedule that `tune` found, and from scratch as long to compare.

    A task whose labels the corpus lacks is left out, and says so.

    Raises:
        StageError: the corpus was not validated, or what training starts from does not fit, or
            training failed.
    """
    out_dir, curve_path = OUT_DIR / task, METRICS_DIR / f"finetune_{task}_curve.jsonl"
    try:
        prepared = prepare_task(task, Request(run, clip, model, finetune, launch))
    except UnlabelledError as error:
        with atomic_path(curve_path) as partial:  # DVC expects it
            partial.touch()
        return skip_task(out_dir, str(error))
    for note in prepared.corpus.notes:
        print(f"finetune {task}: {note}", file=sys.stderr)
    schedule = read_tuned_schedule(task)
    recipe = prepared.recipe if schedule is None else prepared.recipe.take_schedule(schedule)
    runs = {"model": name_job(recipe, prepared.job.initial_weights)}
    if runs["model"].initial_weights is not None and recipe.task.compare_with_scratch:
        runs["scratch"] = name_job(recipe, None)
    for job in runs.values():
        train_classifier(job)
    num_parameters = _export(out_dir, runs, prepared)
    with atomic_path(curve_path) as partial:
        shutil.copyfile(runs["model"].curve_path, partial)
    corpus, counts = prepared.corpus, count_classes(prepared.corpus.splits["train"])
    return {
        "label": recipe.task.label,
        "is_tuned": schedule is not None,
        "schedule": recipe.task.schedule.model_dump(),
        "num_train": dict(zip(corpus.classes, counts, strict=True)),
        "num_validation": len(corpus.splits["validation"]),
        "num_parameters": num_parameters,
        "notes": list(corpus.notes),
        **{f"validation_{name}": _read_last(job) for name, job in runs.items()},
    }


def read_tuned_schedule(task: TaskName) -> ScheduleParams | None:
    """Return the schedule that `tune` found best for a task; None if it was not tuned.

    Raises:
        StageError: the file is damaged.
    """
    path = TUNE_DIR / task / "best.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return ScheduleParams.model_validate(content["schedule"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"{path}: cannot be used: {error}; run `dvc repro tune` again") from error


def _export(out_dir: Path, runs: Mapping[str, Job], prepared: Prepared) -> int:
    """Write the trained classifiers with their curves; return how many weights one has."""
    num_parameters = 0
    with atomic_path(out_dir) as folder:
        folder.mkdir()
        for name, job in runs.items():
            recipe = job.recipe
            assert isinstance(recipe, FinetuneRecipe)
            network = build_network(recipe.network)
            restore_weights(network, load_file(job.weights_path))
            params = ExportedClassifierParams(
                classifier=recipe.network,
                frame_rate_hz=prepared.frame_rate_hz,
                audio_stride=recipe.task.audio_stride,
                code_version=version("vatt"),
                label=recipe.task.label,
                classes=recipe.classes,
                clip=recipe.clip,
                task_name=recipe.task_name,
                task=recipe.task,
                initial_digest=prepared.initial_digest if job.initial_weights else None,
            )
            save_classifier(folder / name, network, params)
            num_parameters = sum(weight.numel() for weight in network.parameters())
            prefix = "" if name == "model" else f"{name}_"
            if job.validations_path.is_file():
                shutil.copyfile(job.validations_path, folder / f"{prefix}validation.jsonl")
            shutil.copyfile(job.curve_path, folder / f"{prefix}curve.jsonl")
    return num_parameters


def _read_last(job: Job) -> dict[str, float] | None:
    """Return the last measurement on the split validation."""
    rows = read_validations(job)
    return rows[-1] if rows else None
