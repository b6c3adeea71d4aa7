"""One rank of a training run: builds what its kind needs, trains, leaves the weights."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from vatt.core.disk import name_disk_errors
from vatt.core.files import atomic_path
from vatt.core.signals import die_with_parent
from vatt.model.transformer import Encoder
from vatt.train.engine import Engine
from vatt.train.finetuning import OnValidation, keep_best, prepare_finetuning
from vatt.train.loop import train
from vatt.train.pretraining import prepare_pretraining
from vatt.train.recipe import Job, PretrainRecipe

JOB = Job


def run_job(job: Job, on_validation: OnValidation | None = None) -> None:
    """Train as this rank, and leave the weights at `job.weights_path`.

    The first rank of fine-tuning calls `on_validation` with what it measures.

    Raises:
        StageError: training cannot go on, or a disk refuses what is written.
    """
    recipe, launch = job.recipe, job.recipe.launch
    if isinstance(recipe, PretrainRecipe):
        setup = prepare_pretraining(job, recipe)
    else:
        setup = prepare_finetuning(job, recipe, on_validation)
    for module in setup.objective.modules():
        if isinstance(module, Encoder):
            module.recomputes = launch.recompute_activations
    if launch.num_processes == 1 and launch.offload == "none":
        # Nobody to share with: the same bits without the work of sharing, 6 % of a step on CPUs.
        launch = launch.model_copy(update={"zero_stage": 0})
    engine = Engine(setup.objective, setup.optimizer, recipe.training, launch)
    with name_disk_errors(job.directory, job.curve_path):
        train(engine, job, setup)
        weights = engine.gather_weights()
        if torch.distributed.get_rank() == 0:
            result = {name: weight.contiguous() for name, weight in keep_best(weights).items()}
            with atomic_path(job.weights_path) as partial:
                save_file(result, partial)


def run_rank(run: Callable[[str], None]) -> int:
    """Call `run` with the job of the file named on the command line, as a rank of torchrun.

    Its errors go to the launcher, and make the exit code 1.
    """
    die_with_parent()
    try:
        run(Path(sys.argv[1]).read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 - the launcher reports it
        get_error_handler().record_exception(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_rank(lambda content: run_job(Job.model_validate_json(content))))
