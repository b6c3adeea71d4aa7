"""One rank of a training run: builds model, loss, data and engine, trains, leaves the weights."""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from vatt.atomic import atomic_path
from vatt.batch import Batch
from vatt.data.clips import ClipReader
from vatt.data.loader import LoaderOptions, open_evaluation_loader, open_pretraining_loader
from vatt.data.loading.order import TrainingOrder
from vatt.data.loading.stores import RangeCache, RemoteShards
from vatt.models.accounting import add_costs, count_clip
from vatt.models.tower import restore_weights
from vatt.models.transformer import Encoder
from vatt.models.vatt import Vatt
from vatt.params import (
    ClipParams,
    LaunchParams,
    LossParams,
    ModelParams,
    PretrainParams,
    RunParams,
    Section,
)
from vatt.signals import die_with_parent
from vatt.train.engine import Engine
from vatt.train.loop import Plan, train
from vatt.train.numbers.memory import require_memory
from vatt.train.objective import Objective
from vatt.train.optimizer import build_optimizer

SHARD_CACHE_DIR = Path(".cache/shards")
PACKAGE_DIR = Path(__file__).parents[1]
CODE = (
    *("batch.py", "distributed.py", "data/*.py", "data/loading/*.py", "losses/*.py", "models/*.py"),
    *("params/*.py", "train/**/*.py"),
)
NO_EFFECT: Any = {
    "pretrain": {
        *("checkpoint_every_steps", "keep_checkpoints", "keep_every_steps"),
        *("validate_every_steps", "validation_clips", "max_bad_steps"),
        *("initial_weights", "word_vectors"),
    },
    "launch": {
        *(
            "loader_workers",
            "shards_url",
            "shard_cache_gib",
            "ray_address",
            "launcher",
            "port",
            "supervision",
        ),
        *("ssh", "slurm", "kubernetes"),
    },
}
"""Parameters that may change between a killed run and the one that takes it up."""


class Recipe(Section):
    """What decides the result of a run, besides its first weights and the code."""

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


class Job(Section):
    """All that a rank must know; travels to the processes of torchrun as a JSON file."""

    recipe: Recipe
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


def name_run(recipe: Recipe, initial_weights: Path | None) -> str:
    """Return the name of a run's folder, another one whenever its result may be another one.

    It covers the recipe, the first weights, torch and the code of parameters, loader, model, loss
    and training, so that after a change of any of them nothing of an earlier run is taken up.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(recipe.model_dump_json(exclude=NO_EFFECT).encode())
    digest.update(torch.__version__.encode())
    code = sorted(path for pattern in CODE for path in PACKAGE_DIR.glob(pattern))
    for path in [*code, initial_weights]:
        if path is not None:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def run_job(job: Job) -> None:
    """Train as this rank, and leave the weights at `job.weights_path`."""
    recipe = job.recipe
    objective = build_objective(job)
    # Before ZeRO-3 takes the weights apart.
    cost = add_costs(
        count_clip(objective.model, recipe.clip, recipe.model.drop_token_rate).values()
    )
    optimizer = build_optimizer(objective.parameters(), recipe.pretrain)
    launch = recipe.launch
    if launch.num_processes == 1 and launch.offload == "none":
        # Nobody to share with: the same bits without the work of sharing, 6 % of a step on CPUs.
        launch = launch.model_copy(update={"zero_stage": 0})
    drop_token_rate = recipe.model.drop_token_rate
    require_memory(objective.model, recipe.clip, drop_token_rate, recipe.pretrain, launch)
    engine = Engine(objective, optimizer, recipe.pretrain, launch)

    num_parts = recipe.pretrain.accumulation_steps

    def open_batches(start_step: int) -> Iterable[Batch]:
        order = TrainingOrder(  # of parts: the same parts on any number of ranks
            seed=recipe.run.seed,
            batch_size=recipe.pretrain.batch_size // num_parts,
            start_step=start_step * num_parts,
            num_steps=recipe.pretrain.num_steps * num_parts,
            rank=torch.distributed.get_rank(),
            world_size=recipe.launch.num_processes,
        )
        options = LoaderOptions(
            num_workers=recipe.launch.loader_workers,
            source_weights=recipe.pretrain.source_weights,
            shards=_open_shards(recipe.launch),
        )
        return open_pretraining_loader(job.preprocess_dir, recipe.clip, order, options)

    reader = ClipReader(job.preprocess_dir, recipe.clip, _open_shards(recipe.launch))
    plan = Plan(
        seed=recipe.run.seed,
        pretrain=recipe.pretrain,
        directory=job.directory,
        curve_path=job.curve_path,
        open_validation=lambda: _open_validation(job, reader),
        cost=cost,
    )
    train(engine, open_batches, plan)
    weights = engine.gather_weights()
    if torch.distributed.get_rank() == 0:
        _save_weights(job.weights_path, weights)


def _open_validation(job: Job, reader: ClipReader) -> Iterator[Batch]:
    """Yield the first clips of the split validation, as many at once as are trained on at once."""
    recipe, left = job.recipe, job.recipe.pretrain.validation_clips
    size = recipe.pretrain.batch_size // (
        recipe.launch.num_processes * recipe.pretrain.accumulation_steps
    )
    clips = open_evaluation_loader(reader, "validation", 1, size)
    for rows, batch in clips:
        seen = torch.from_numpy(np.flatnonzero(rows["has_video"])[:left])
        yield Batch(*(getattr(batch, field.name)[seen] for field in fields(batch)))
        left -= len(seen)
        if left == 0:
            return


def _open_shards(launch: LaunchParams) -> RemoteShards | None:
    """Return where the shards are; None is the folder of the corpus."""
    if launch.shards_url is None:
        return None
    cache = RangeCache(SHARD_CACHE_DIR, int(launch.shard_cache_gib * 2**30))
    return RemoteShards(launch.shards_url, cache)


def build_objective(job: Job) -> Objective:
    """Return model and loss with the weights that training starts from."""
    recipe = job.recipe
    torch.manual_seed(recipe.run.seed)
    model = Vatt(recipe.model, recipe.clip, recipe.vocab_size)
    if job.initial_weights is not None:
        restore_weights(model, load_file(job.initial_weights))
    for module in model.modules():
        if isinstance(module, Encoder):
            module.recomputes = recipe.launch.recompute_activations
    return Objective(model, recipe.loss)


def _save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    named = {name.removeprefix("model."): tensor.contiguous() for name, tensor in weights.items()}
    with atomic_path(path) as partial:
        save_file(named, partial)


def main() -> int:
    """Run the job of the file named on the command line, as a rank that torchrun started."""
    die_with_parent()
    try:
        run_job(Job.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:  # noqa: BLE001 - the launcher tells it
        get_error_handler().record_exception(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
