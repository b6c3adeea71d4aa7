"""A training as data: its recipe decides the result, and its job adds the paths.

A run is named by its recipe and the code, so that one that was killed is found again, and nothing
of an earlier run is taken up after a change.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field

from vatt.core import code
from vatt.core.code import list_code
from vatt.core.files import digest_file
from vatt.model.classifier import NetworkParams, apply_rates
from vatt.params import (
    ClipParams,
    LaunchParams,
    LossParams,
    ModelParams,
    PretrainParams,
    RunParams,
    ScheduleParams,
    Section,
    TaskName,
    TaskParams,
    TrainingParams,
)

CODE = (
    *("core/batch.py", "core/distributed.py", "corpus", "loading", "media", "model", "train"),
    *("params/clip.py", "params/model.py", "params/pretrain.py", "params/finetune.py"),
)
"""What can change the numbers of a training: neither the launchers nor the stages."""
_OF_ALL_TRAINING = {
    *("checkpoint_every_steps", "keep_checkpoints", "keep_every_steps", "max_bad_steps"),
    "initial_weights",  # where they lie: the name of a run covers the weights themselves
}
SUMS_ONLY = {
    *("num_processes", "threads_per_process", "zero_stage", "offload", "recompute_activations")
}
"""The keys of `launch` that change the order of sums, and so the last digits. `num_processes`
also changes what dropout and mixup draw, as another seed would."""
NO_EFFECT: Any = {
    "pretrain": _OF_ALL_TRAINING | {"validate_every_steps", "validation_clips", "word_vectors"},
    "task": _OF_ALL_TRAINING | {"compare_with_scratch"},
    "launch": SUMS_ONLY
    | {
        *("loader_workers", "shards_url", "shard_cache_gib", "ray_address"),
        *("launcher", "port", "supervision", "ssh", "slurm", "kubernetes"),
    },
    "initial_digest": True,
}
"""Parameters that may change between a killed run and the one that takes it up."""
NO_EFFECT_CODE = ("train/lineage.py", "train/monitor.py", "train/precision.py", "train/worker.py")
"""The files of CODE that show, measure and start a training, and change no number of it."""


class Recipe(Section):
    """What decides the result of a training or an evaluation, besides weights and the code."""

    run: RunParams
    clip: ClipParams
    """What is read of a segment, as the training needs it; see `vatt.loading.tasks.TaskInput`."""
    launch: LaunchParams
    index_digest: str
    """The digest of the corpus index, which stands for the version of the data."""

    @property
    def section(self) -> str:
        """The section of params.yaml that it comes from, for messages."""
        raise NotImplementedError

    @property
    def training(self) -> TrainingParams | None:
        """How long it trains, and in which steps; None where ranks share no batch."""
        return None


class PretrainRecipe(Recipe):
    """What decides the result of pre-training."""

    kind: Literal["pretrain"] = "pretrain"
    model: ModelParams
    loss: LossParams
    pretrain: PretrainParams
    vocab_size: int
    tokenizer_digest: str
    """The digest of the tokenizer's file: another vocabulary may have the same size."""

    @property
    def section(self) -> str:
        """The section of params.yaml that it comes from, for messages."""
        return "pretrain"

    @property
    def training(self) -> TrainingParams:
        """How long it trains, and in which steps."""
        return self.pretrain


class FinetuneRecipe(Recipe):
    """What decides the result of fine-tuning."""

    kind: Literal["finetune"] = "finetune"
    task_name: TaskName
    task: TaskParams
    network: NetworkParams
    """The network with the rates of the schedule."""
    classes: tuple[str, ...]
    """What the logits stand for: the labels of the split train, sorted."""
    initial_digest: str | None = None
    """The digest of the export that training starts from, if any; for the record."""

    @property
    def section(self) -> str:
        """The section of params.yaml that it comes from, for messages."""
        return f"finetune.{self.task_name}"

    @property
    def training(self) -> TrainingParams:
        """How long it trains, and in which steps."""
        return self.task

    def take_schedule(self, schedule: ScheduleParams) -> Self:
        """Return the recipe with another schedule."""
        task = self.task.model_copy(update={"schedule": schedule})
        return self.model_copy(
            update={"task": task, "network": apply_rates(self.network, schedule)}
        )


class AnyJob(Section):
    """What the launchers know of a job; it travels to other processes as a JSON file."""

    worker: str
    """The module that a rank runs; it calls the class of its jobs `JOB`."""
    recipe: Recipe
    preprocess_dir: Path
    directory: Path
    """The folder of this run: checkpoints, logs, and at the end the result."""

    @property
    def result_path(self) -> Path:
        """What the first rank writes last: where it is, the job is done."""
        return self.directory / "result.json"


class Job(AnyJob):
    """All that a rank of a training must know."""

    worker: Literal["vatt.train.worker"] = "vatt.train.worker"
    recipe: Annotated[PretrainRecipe | FinetuneRecipe, Field(discriminator="kind")]
    initial_weights: Path | None
    """The safetensors file to start from, None for random weights."""
    curve_path: Path

    @property
    def clips_at_once(self) -> int:
        """The clips that a rank computes at once: its share of one part of a batch."""
        training, launch = self.recipe.training, self.recipe.launch
        return training.batch_size // (launch.num_processes * training.accumulation_steps)

    @property
    def weights_path(self) -> Path:
        """Where the first rank leaves the trained weights."""
        return self.directory / "weights.safetensors"

    @property
    def result_path(self) -> Path:
        """See `AnyJob`."""
        return self.weights_path

    @property
    def validations_path(self) -> Path:
        """Where the first rank of fine-tuning writes what it measures, a line of JSON each time."""
        return self.directory / "validation.jsonl"


def read_job(path: Path) -> AnyJob:
    """Read the job that a launcher wrote."""
    content = path.read_text(encoding="utf-8")
    job: AnyJob = import_module(json.loads(content)["worker"]).JOB.model_validate_json(content)
    return job


def name_run(recipe: PretrainRecipe | FinetuneRecipe, initial_weights: Path | None) -> str:
    """Return the name of a run's folder, another one whenever its result may be another one."""
    facts = json.dumps(list_facts(recipe, initial_weights), sort_keys=True)
    return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()


def list_facts(
    recipe: PretrainRecipe | FinetuneRecipe, initial_weights: Path | None
) -> dict[str, dict[str, Any]]:
    """Return all that decides the result of a run, as JSON: `settings` and `digests`, by name.

    They are the recipe but for NO_EFFECT, the first weights, torch and CODE.
    """
    content = recipe.model_dump(mode="json", exclude=NO_EFFECT)
    if isinstance(recipe, PretrainRecipe) and recipe.loss.valid_mean == "replica":
        content["launch"]["num_processes"] = recipe.launch.num_processes
    digests = {"corpus": content.pop("index_digest")}
    if isinstance(recipe, PretrainRecipe):
        digests["vocabulary"] = content.pop("tokenizer_digest")
    else:
        content[recipe.section] = content.pop("task")
    if initial_weights is not None:
        digests["first weights"] = digest_file(initial_weights)
    for path in sorted({*list_code(*CODE)} - {*list_code(*NO_EFFECT_CODE)}):
        digests[f"code in vatt/{path.relative_to(code.PACKAGE_DIR)}"] = digest_file(path)
    return {"settings": {**flatten(content), "torch": torch.__version__}, "digests": digests}


def flatten(content: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return what nested mappings hold, each under its names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        inner = value if isinstance(value, Mapping) and value else None
        flat |= flatten(inner, f"{section}{name}.") if inner else {f"{section}{name}": value}
    return flat
