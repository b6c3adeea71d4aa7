"""One rank of a training run: builds what its kind needs, trains, leaves the weights."""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from vatt.core.batch import Batch, LabelledBatch
from vatt.core.disk import name_disk_errors
from vatt.core.files import atomic_path
from vatt.core.signals import die_with_parent
from vatt.loading.order import TrainingOrder
from vatt.model.transformer import Encoder
from vatt.train.engine import Engine
from vatt.train.finetuning import OnValidation, prepare_finetuning
from vatt.train.loop import Plan, Setup, train
from vatt.train.pretraining import prepare_pretraining
from vatt.train.recipe import Job, PretrainRecipe


def run_job(job: Job, on_validation: OnValidation | None = None) -> None:
    """Train as this rank, and leave the weights at `job.weights_path`.

    Fine-tuning tells the first rank's `on_validation` what it measures.

    Raises:
        StageError: training cannot go on, or a disk refuses what is written.
    """
    recipe, training = job.recipe, job.recipe.training
    setup = _prepare(job, on_validation)
    for module in setup.objective.modules():
        if isinstance(module, Encoder):
            module.recomputes = recipe.launch.recompute_activations
    launch = recipe.launch
    if launch.num_processes == 1 and launch.offload == "none":
        # Nobody to share with: the same bits without the work of sharing, 6 % of a step on CPUs.
        launch = launch.model_copy(update={"zero_stage": 0})
    engine = Engine(setup.objective, setup.optimizer, training, launch)

    def open_batches(start_step: int) -> Iterable[Batch | LabelledBatch]:
        num_parts = training.accumulation_steps
        order = TrainingOrder(  # of parts: the same parts on any number of ranks
            seed=recipe.run.seed,
            batch_size=training.batch_size // num_parts,
            start_step=start_step * num_parts,
            num_steps=training.num_steps * num_parts,
            rank=torch.distributed.get_rank(),
            world_size=recipe.launch.num_processes,
        )
        return setup.open_batches(order)

    plan = Plan(
        section=recipe.section,
        seed=recipe.run.seed,
        training=training,
        directory=job.directory,
        curve_path=job.curve_path,
        parts=setup.parts,
        settings=setup.settings,
        validation=setup.validation,
        cost=setup.cost,
    )
    with name_disk_errors(job.directory, job.curve_path):
        train(engine, open_batches, plan)
        _save_weights(engine, setup, job.weights_path)


def _save_weights(engine: Engine, setup: Setup, path: Path) -> None:
    weights = engine.gather_weights()
    if torch.distributed.get_rank() == 0:
        selected = setup.select_weights(weights)
        with atomic_path(path) as partial:
            save_file({name: weight.contiguous() for name, weight in selected.items()}, partial)


def _prepare(job: Job, on_validation: OnValidation | None) -> Setup:
    if isinstance(job.recipe, PretrainRecipe):
        return prepare_pretraining(job, job.recipe)
    return prepare_finetuning(job, job.recipe, on_validation)


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
