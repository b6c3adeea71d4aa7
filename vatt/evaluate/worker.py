"""One rank of an evaluation: its share of what networks make of the clips, for the stage to read.

Ranks meet on the shared disk alone: each takes its parts of every split in turn, and stays until
all are there.
"""

import sys
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Literal

import torch

from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.evaluate.annotated import find_annotated, pick_embedders
from vatt.evaluate.drawn import draw_inner
from vatt.evaluate.feature_store import FeatureStore
from vatt.evaluate.features import Clips, SplitReader
from vatt.evaluate.finetuned import Finetuned, load_finetuned
from vatt.evaluate.networks import Embedder, Observer, forget_training, open_model
from vatt.evaluate.selection import Subset
from vatt.params import TASKS, EvaluateParams, TaskName
from vatt.train.engine import join_processes
from vatt.train.monitor import write_heartbeat
from vatt.train.recipe import AnyJob, Recipe
from vatt.train.worker import run_rank

FEATURES_DIR = Path(".cache/evaluate")
LOOK_EVERY_S = 0.5
Networks = dict[tuple[str, str], Observer]
"""By task, empty for the pre-trained network, and name."""
Observers = dict[str, Networks]
"""Who sees a split, by split."""
ToSee = list[tuple[Clips, Networks]]
"""Clips, and who sees them."""


class EvaluateRecipe(Recipe):
    """What decides the features of an evaluation."""

    evaluate: EvaluateParams
    export_dir: Path
    """The export that is evaluated."""
    finetune_dir: Path
    """The folder with what was fine-tuned, by task."""

    @property
    def section(self) -> str:
        """The section of params.yaml that it comes from, for messages."""
        return "evaluate"


class EvaluateJob(AnyJob):
    """All that a rank of an evaluation must know; its result is the type of its device."""

    worker: Literal["vatt.evaluate.worker"] = "vatt.evaluate.worker"
    recipe: EvaluateRecipe


JOB = EvaluateJob


def load_networks(model: str, finetune_dir: Path) -> tuple[Embedder, dict[TaskName, Finetuned]]:
    """Load what is evaluated, see `open_model`; StageError where it cannot be."""
    embedder = open_model(model)
    return embedder, {task: load_finetuned(finetune_dir / task, embedder.digest) for task in TASKS}


def list_observers(embedder: Embedder, tasks: Mapping[TaskName, Finetuned]) -> Observers:
    """Return who sees each split: the network, trained and untrained; the split test, all."""
    networks: Networks = {
        ("", "trained"): embedder,
        ("", "untrained"): forget_training(embedder),
    }
    labellers: Networks = {
        (task, name): labeller
        for task, (_, named) in tasks.items()
        for name, labeller in named.items()
    }
    return {"train": networks, "validation": networks, "test": {**networks, **labellers}}


def list_to_see(reader: SplitReader, observers: Observers) -> ToSee:
    """Return all clips that are seen, with the networks that see them.

    The splits come first, then the annotated parts and what the analyses need.

    Raises:
        StageError: the corpus cannot be read.
    """
    to_see = [(reader.read_clips(split), networks) for split, networks in observers.items()]
    test, networks = to_see[-1]
    parts = find_annotated(reader.preprocess_dir, "test", test).clips
    to_see += [(parts, pick_embedders(networks))] if len(parts.rows) else []
    return [*to_see, draw_inner(test, networks)] if reader.params.analyses else to_see


def is_missing(reader: SplitReader, to_see: ToSee) -> bool:
    """Return whether a network has not yet seen all that it must see."""
    return any(parts for own in to_see for parts in reader.list_missing(*own).values())


def observe(job: EvaluateJob) -> None:
    """See the share of this rank; the first one leaves the type of its device as the result.

    Raises:
        StageError: a network or the corpus cannot be read, or they do not fit.
    """
    recipe, steps = job.recipe, count(1)
    device = join_processes(recipe.launch)
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    embedder, tasks = load_networks(str(recipe.export_dir), recipe.finetune_dir)
    reader = SplitReader(
        job.preprocess_dir,
        recipe.clip,
        recipe.evaluate,
        FeatureStore(FEATURES_DIR),
        recipe.launch,
        Subset(recipe.evaluate.max_train_clips, recipe.run.seed),
        beat=lambda: write_heartbeat(next(steps)),
    )
    to_see = list_to_see(reader, list_observers(embedder, tasks))
    while not job.result_path.is_file():
        reader.beat()
        # Again and again: another evaluation may remove what this one made.
        for clips, networks in to_see:
            reader.observe(clips, networks, (rank, num_ranks))
        if rank == 0 and not is_missing(reader, to_see):
            write_json(job.result_path, {"device_type": device.type})
        time.sleep(LOOK_EVERY_S)


def run_job(content: str) -> None:
    """Run a job; StageError of whatever kind becomes a plain one, after which no rank restarts."""
    try:
        observe(EvaluateJob.model_validate_json(content))
    except StageError as error:
        raise StageError(str(error)) from error


if __name__ == "__main__":
    sys.exit(run_rank(run_job))
