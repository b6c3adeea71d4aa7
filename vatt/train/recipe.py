"""What a training is: all that decides its result, and the job that its ranks are given."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field

from vatt.core.code import digest_code
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
    *("params/data.py", "params/model.py", "params/training.py", "params/finetune.py"),
)
"""What can change the numbers of a training: neither the launchers nor the stages."""
NO_EFFECT: Any = {
    "pretrain": {
        *("checkpoint_every_steps", "keep_checkpoints", "keep_every_steps"),
        *("validate_every_steps", "validation_clips", "max_bad_steps"),
        *("initial_weights", "word_vectors"),
    },
    "task": {
        *("checkpoint_every_steps", "keep_checkpoints", "keep_every_steps", "max_bad_steps"),
        *("initial_weights", "compare_with_scratch"),
    },
    "launch": {
        *("loader_workers", "shards_url", "shard_cache_gib", "ray_address"),
        *("launcher", "port", "supervision", "ssh", "slurm", "kubernetes"),
    },
}
"""Parameters that may change between a killed run and the one that takes it up."""


class PretrainRecipe(Section):
    """What decides the result of pre-training, besides its first weights and the code."""

    kind: Literal["pretrain"] = "pretrain"
    run: RunParams
    clip: ClipParams
    model: ModelParams
    loss: LossParams
    pretrain: PretrainParams
    launch: LaunchParams
    vocab_size: int
    index_digest: str
    """Of the index of the corpus: the version of the data."""
    tokenizer_digest: str
    """Of its tokenizer: another vocabulary may have the same size."""

    @property
    def section(self) -> str:
        """The section of params.yaml that it comes from, for messages."""
        return "pretrain"

    @property
    def training(self) -> TrainingParams:
        """How long, and in which steps."""
        return self.pretrain


class FinetuneRecipe(Section):
    """What decides the result of fine-tuning, besides its first weights and the code."""

    kind: Literal["finetune"] = "finetune"
    run: RunParams
    task_name: TaskName
    task: TaskParams
    clip: ClipParams
    """Of the task: what is read of a segment; see `vatt.loading.tasks.TaskInput`."""
    network: NetworkParams
    """With the rates of the schedule."""
    classes: tuple[str, ...]
    """Of the split train, sorted: what the logits stand for."""
    launch: LaunchParams
    index_digest: str
    """Of the index of the corpus: the version of the data."""

    @property
    def section(self) -> str:
        """The section of params.yaml that it comes from, for messages."""
        return f"finetune.{self.task_name}"

    @property
    def training(self) -> TrainingParams:
        """How long, and in which steps."""
        return self.task

    def take_schedule(self, schedule: ScheduleParams) -> Self:
        """Return the recipe with another schedule."""
        updates = {
            "task": self.task.model_copy(update={"schedule": schedule}),
            "network": apply_rates(self.network, schedule),
        }
        return self.model_copy(update=updates)


class Job(Section):
    """All that a rank must know; travels to the processes of torchrun as a JSON file."""

    recipe: Annotated[PretrainRecipe | FinetuneRecipe, Field(discriminator="kind")]
    initial_weights: Path | None
    """The safetensors file to start from, None for random weights."""
    preprocess_dir: Path
    directory: Path
    """The folder of this run: checkpoints, speed log, and at the end the weights."""
    curve_path: Path

    @property
    def weights_path(self) -> Path:
        """Where the first rank leaves the trained weights."""
        return self.directory / "weights.safetensors"

    @property
    def validations_path(self) -> Path:
        """Where the first rank writes each measurement of fine-tuning on the split validation: a line of JSON."""
        return self.directory / "validation.jsonl"


def name_run(recipe: PretrainRecipe | FinetuneRecipe, initial_weights: Path | None) -> str:
    """Return the name of a run's folder, another one whenever its result may be another one.

    It covers the recipe, the first weights, torch and the code of parameters, loader, model, loss
    and training, so that after a change of any of them nothing of an earlier run is taken up.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(recipe.model_dump_json(exclude=NO_EFFECT).encode())
    digest.update(torch.__version__.encode())
    digest.update(digest_code(*CODE).encode())
    if initial_weights is not None:
        digest.update(initial_weights.read_bytes())
    return digest.hexdigest()
