"""Stage `finetune`: supervised training for one task, and the export of its classifiers.

`tune` tries schedules of the same training, which `prepare_task` gets ready for both.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from vatt.core.errors import StageError
from vatt.core.files import atomic_path, write_json
from vatt.corpus.access import require_passed
from vatt.launch.launcher import launch as launch_job
from vatt.loading.tasks import LabelledCorpus, UnlabelledError, read_labelled
from vatt.model.classifier import build_network, list_towers
from vatt.model.towers import restore_weights
from vatt.params import SKIPPED, ClipParams, LaunchParams, ModelParams, RunParams, Task
from vatt.train.finetuning import read_validations
from vatt.train.lineage import open_runs
from vatt.train.recipe import FinetuneRecipe, Job, name_run
from vatt.weights.export import ExportedClassifierParams, save_export
from vatt.weights.initial import Demand, describe_classifier, find_source, write_first_weights
from vatt.weights.registry import digest_export, digest_file

PREPROCESS_DIR = Path("data/preprocess")
PRETRAIN_DIR = Path("data/pretrain")
TUNE_DIR = Path("data/tune")
OUT_DIR = Path("data/finetune")
VERDICT_PATH = Path("metrics/validate.json")
RUNS_DIR = Path(".cache/finetune")


def main(
    run: RunParams, clip: ClipParams, model: ModelParams, finetune: Task, launch: LaunchParams
) -> Mapping[str, Any]:
    """Train for a task with the schedule that `tune` found, and from scratch as long to compare.

    A task whose labels the corpus lacks is left out, and says so.

    Raises:
        StageError: the corpus was not validated, what training starts from does not fit, or
            training failed.
    """
    out_dir = OUT_DIR / finetune.name
    curve_path = Path(f"metrics/finetune_{finetune.name}_curve.jsonl")
    try:
        job, recipe, corpus = prepare_task(run, clip, model, finetune, launch)
    except UnlabelledError as error:
        with atomic_path(curve_path) as partial:  # DVC expects it
            partial.touch()
        return skip_task(out_dir, str(error))
    for note in corpus.notes:
        print(f"finetune {finetune.name}: {note}", file=sys.stderr)
    tuned = read_tuned(recipe)
    recipe = tuned or recipe
    runs = {"model": build_job(recipe, job.initial_weights)}
    if job.initial_weights is not None and recipe.task.compare_with_scratch:
        runs["scratch"] = build_job(recipe, None)
    open_runs([*runs.values()])
    for job in runs.values():
        launch_job(job)
    num_parameters = _export(out_dir, runs, recipe, corpus)
    with atomic_path(curve_path) as partial:
        shutil.copyfile(runs["model"].curve_path, partial)
    measured = {name: read_validations(job) for name, job in runs.items()}
    return {
        "label": recipe.task.label,
        "is_tuned": tuned is not None,
        "schedule": recipe.task.schedule.model_dump(),
        "num_train": corpus.splits["train"].count_classes(),
        "num_validation": len(corpus.splits["validation"]),
        "num_parameters": num_parameters,
        "notes": list(corpus.notes),
        **{f"validation_{name}": rows[-1] if rows else None for name, rows in measured.items()},
    }


def prepare_task(
    run: RunParams,
    clip: ClipParams,
    model: ModelParams,
    finetune: Task,
    launch: LaunchParams,
    corpus_dir: Path = PREPROCESS_DIR,
) -> tuple[Job, FinetuneRecipe, LabelledCorpus]:
    """Return a training with the schedule of params.yaml, ready to run: job, recipe and labels.

    Its first weights are written. Of `corpus_dir`, data/preprocess or that without the split test,
    it reads the splits train and validation only.

    Raises:
        StageError: the corpus was not validated, or what training starts from does not fit.
        UnlabelledError: the corpus lacks the labels.
    """
    index_digest = require_passed(PREPROCESS_DIR, VERDICT_PATH)
    name, task = finetune
    corpus = read_labelled(corpus_dir, name, task, ("train", "validation"))
    source, clip = find_source(task, PRETRAIN_DIR), task.cut_clip(clip)
    network = describe_classifier(source, model, Demand(name, task, clip, len(corpus.classes)))
    if name == "image":  # how often the frame is repeated follows from the network
        (num_frames, *_) = list_towers(network)["video"].measure()
        clip = clip.model_copy(update={"num_frames": num_frames})
    weights_path = None
    if source:
        partial_path = RUNS_DIR / name / "initial.safetensors"
        write_first_weights(source, network, run.seed, partial_path)
        # The digest in the name: a process that trains may read it while another prepares anew.
        weights_path = partial_path.with_stem(f"initial-{digest_file(partial_path)[:16]}")
        partial_path.replace(weights_path)
    recipe = FinetuneRecipe(
        run=run,
        clip=clip,
        launch=launch,
        index_digest=index_digest,
        task_name=name,
        task=task,
        network=network,
        classes=corpus.classes,
        initial_digest=digest_export(source) if source else None,
    )
    return build_job(recipe, weights_path, corpus_dir), recipe, corpus


def build_job(
    recipe: FinetuneRecipe, initial_weights: Path | None, corpus_dir: Path = PREPROCESS_DIR
) -> Job:
    """Return the job of a recipe, in a folder that no other has."""
    directory = RUNS_DIR / recipe.task_name / name_run(recipe, initial_weights)
    return Job(
        recipe=recipe,
        initial_weights=initial_weights,
        preprocess_dir=corpus_dir,
        directory=directory,
        curve_path=directory / "curve.jsonl",
    )


def skip_task(out_dir: Path, reason: str) -> dict[str, str]:
    """Leave the reason for later stages where a task is left out; return it as the metrics."""
    print(f"{out_dir}: skipped: {reason}", file=sys.stderr)
    with atomic_path(out_dir) as folder:
        folder.mkdir()
        write_json(folder / SKIPPED, {"reason": reason})
    return {"skipped": reason}


def read_tuned(recipe: FinetuneRecipe) -> FinetuneRecipe | None:
    """Return the recipe with the schedule that `tune` found best; None if nothing was tried.

    Raises:
        StageError: the file is damaged, or `tune` was run for another schedule, or fewer steps.
    """
    name, task, section = recipe.task_name, recipe.task, recipe.section
    path = TUNE_DIR / name / "best.json"
    again = f"run `dvc repro tune@{name}` (or `python -m vatt tune {name}`) again"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["value"] is None:
            return None
        read = type(task.schedule).model_validate
        own, best = read(found["own"]), read(found["schedule"])
        origin = f"schedule of trial {found['trial']} of study {found['study']}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"{path}: cannot be used: {error}; {again}") from error
    for key, value in own:
        if value != (now := getattr(task.schedule, key)):
            raise StageError(
                f"{path}: was found with {section}.schedule.{key} = {value}, params.yaml says "
                f"{now}; {again}, or remove the file"
            )
    if best.warmup_steps > task.num_steps:
        raise StageError(
            f"{path}: schedule.warmup_steps = {best.warmup_steps} is above {section}.num_steps = "
            f"{task.num_steps}; {again}"
        )
    print(f"finetune {name}: {origin}")
    return recipe.take_schedule(best)


def _export(
    out_dir: Path, runs: Mapping[str, Job], recipe: FinetuneRecipe, corpus: LabelledCorpus
) -> int:
    """Write the trained classifiers with their curves; return how many weights one has."""
    network, task = build_network(recipe.network), recipe.task
    origin = {name: getattr(recipe, name) for name in ("classes", "clip", "task_name", "task")}
    with atomic_path(out_dir) as folder:
        folder.mkdir()
        for name, job in runs.items():
            restore_weights(network, load_file(job.weights_path))
            params = ExportedClassifierParams(
                **origin,
                classifier=recipe.network,
                frame_rate_hz=max(corpus.splits["train"].rows["frame_rate_hz"].to_pylist()),
                audio_stride=task.audio_stride,
                code_version=version("vatt"),
                label=task.label,
                initial_digest=recipe.initial_digest if job.initial_weights else None,
            )
            save_export(folder / name, network, params)
            prefix = "" if name == "model" else f"{name}_"
            if job.validations_path.is_file():
                shutil.copyfile(job.validations_path, folder / f"{prefix}validation.jsonl")
            shutil.copyfile(job.curve_path, folder / f"{prefix}curve.jsonl")
    return sum(weight.numel() for weight in network.parameters())
