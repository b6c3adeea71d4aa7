"""What the stages `tune` and `finetune` share: the training of a task, ready to run."""

import sys
from dataclasses import dataclass
from pathlib import Path

from vatt.core.files import atomic_path, write_json
from vatt.corpus.gate import require_passed
from vatt.loading.labelled import LabelledCorpus, read_labelled
from vatt.model.classifier import list_towers
from vatt.params import (
    SKIPPED,
    ClipParams,
    FinetuneParams,
    LaunchParams,
    ModelParams,
    RunParams,
    TaskName,
)
from vatt.train.recipe import FinetuneRecipe, Job, name_run
from vatt.weights.initial import Demand, describe_classifier, find_source, write_first_weights
from vatt.weights.registry import digest_export, digest_file

PREPROCESS_DIR = Path("data/preprocess")
PRETRAIN_DIR = Path("data/pretrain")
VERDICT_PATH = Path("metrics/validate.json")
RUNS_DIR = Path(".cache/finetune")


@dataclass(frozen=True)
class Request:
    """The sections of params.yaml that decide a training; stages of tasks take them together."""

    run: RunParams
    clip: ClipParams
    model: ModelParams
    finetune: FinetuneParams
    launch: LaunchParams


@dataclass(frozen=True)
class Prepared:
    """A training that can start. initial_digest: of the export that it starts from, if any."""

    job: Job
    recipe: FinetuneRecipe
    """That of the job."""
    corpus: LabelledCorpus
    frame_rate_hz: float
    initial_digest: str | None


def prepare_task(
    task_name: TaskName, request: Request, corpus_dir: Path = PREPROCESS_DIR
) -> Prepared:
    """Return the training of a task with the schedule of params.yaml; its first weights are written.

    Args:
        task_name: what is trained.
        request: how.
        corpus_dir: what is read and trained on: data/preprocess, or that without the split test. Only
            the splits train and validation are opened.

    Raises:
        StageError: the corpus was not validated, or what training starts from does not fit.
        UnlabelledError: the corpus has not the labels.
    """
    index_digest = require_passed(PREPROCESS_DIR, VERDICT_PATH)
    task = request.finetune.task(task_name)
    corpus = read_labelled(corpus_dir, task_name, task, ("train", "validation"))
    source = find_source(task, PRETRAIN_DIR)
    clip = task.cut_clip(request.clip)
    demand = Demand(task_name, task, clip, len(corpus.classes))
    network = describe_classifier(source, request.model, demand)
    if task_name == "image":  # how often the frame is repeated follows from the network
        (num_frames, *_) = list_towers(network)["video"].measure()
        clip = clip.model_copy(update={"num_frames": num_frames})
    recipe = FinetuneRecipe(
        run=request.run,
        task_name=task_name,
        task=task,
        clip=clip,
        network=network,
        classes=corpus.classes,
        launch=request.launch,
        index_digest=index_digest,
    )
    weights_path = None
    if source:
        partial_path = RUNS_DIR / task_name / "initial.safetensors"
        write_first_weights(source, network, request.run.seed, partial_path)
        # By this name it is never another file: who trains may read it when others prepare.
        weights_path = partial_path.with_stem(f"initial-{digest_file(partial_path)[:16]}")
        partial_path.replace(weights_path)
    return Prepared(
        job=name_job(recipe, weights_path).model_copy(update={"preprocess_dir": corpus_dir}),
        recipe=recipe,
        corpus=corpus,
        frame_rate_hz=max(corpus.splits["train"].rows["frame_rate_hz"].to_pylist()),
        initial_digest=digest_export(source) if source else None,
    )


def name_job(recipe: FinetuneRecipe, initial_weights: Path | None) -> Job:
    """Return the job of a recipe, in a folder that no other has."""
    directory = RUNS_DIR / recipe.task_name / name_run(recipe, initial_weights)
    return Job(
        recipe=recipe,
        initial_weights=initial_weights,
        preprocess_dir=PREPROCESS_DIR,
        directory=directory,
        curve_path=directory / "curve.jsonl",
    )


def skip_task(out_dir: Path, reason: str) -> dict[str, str]:
    """Leave in a folder what later stages find of a task that is left out; return its metrics."""
    print(f"{out_dir}: skipped: {reason}", file=sys.stderr)
    with atomic_path(out_dir) as folder:
        folder.mkdir()
        write_json(folder / SKIPPED, {"reason": reason})
    return {"skipped": reason}
