"""Stage `finetune`: supervised training for one task, and the export of its classifiers."""

import json
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.launch.launcher import train_classifier
from vatt.loading.labelled import UnlabelledError, count_classes
from vatt.model.classifier import build_network
from vatt.model.towers import restore_weights
from vatt.params import ScheduleParams, TaskName, TaskParams
from vatt.stages.finetuning import Prepared, Request, name_job, prepare_task, skip_task
from vatt.train.finetuning import read_validations
from vatt.train.recipe import FinetuneRecipe, Job
from vatt.weights.export import ExportedClassifierParams, save_export

OUT_DIR = Path("data/finetune")
TUNE_DIR = Path("data/tune")
METRICS_DIR = Path("metrics")


def main(task: TaskName, request: Request) -> Mapping[str, Any]:
    """Train for a task with the schedule that `tune` found, and from scratch as long to compare.

    A task whose labels the corpus lacks is left out, and says so.

    Raises:
        StageError: the corpus was not validated, or what training starts from does not fit, or
            training failed.
    """
    out_dir, curve_path = OUT_DIR / task, METRICS_DIR / f"finetune_{task}_curve.jsonl"
    try:
        prepared = prepare_task(task, request)
    except UnlabelledError as error:
        with atomic_path(curve_path) as partial:  # DVC expects it
            partial.touch()
        return skip_task(out_dir, str(error))
    for note in prepared.corpus.notes:
        print(f"finetune {task}: {note}", file=sys.stderr)
    schedule = read_tuned_schedule(task, prepared.recipe.task)
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


def read_tuned_schedule(task: TaskName, params: TaskParams) -> ScheduleParams | None:
    """Return the schedule that `tune` found best for a task; None if nothing was tried.

    Raises:
        StageError: the file is damaged, or `tune` was run for another schedule, or fewer steps.
    """
    path = TUNE_DIR / task / "best.json"
    again = f"run `dvc repro tune@{task}` (or `python -m vatt tune {task}`) again"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["value"] is None:
            return None
        own, best = (ScheduleParams.model_validate(found[name]) for name in ("own", "schedule"))
        told = f"schedule of trial {found['trial']} of study {found['study']}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"{path}: cannot be used: {error}; {again}") from error
    section = f"finetune.{task}"
    for name, value in own:
        if value != getattr(params.schedule, name):
            raise StageError(
                f"{path}: was found with {section}.schedule.{name} = {value}, params.yaml says "
                f"{getattr(params.schedule, name)}; {again}, or remove the file"
            )
    if best.warmup_steps > params.num_steps:
        raise StageError(
            f"{path}: schedule.warmup_steps = {best.warmup_steps} is above {section}.num_steps = "
            f"{params.num_steps}; {again}"
        )
    print(f"finetune {task}: {told}")
    return best


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
            save_export(folder / name, network, params)
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
