"""Starts a training run where `launch.launcher` says, and sees that no process is left behind.

Fine-tuning through the same launchers, engine and loop as pre-training.
"""

from pathlib import Path

from vatt.core.signals import sigterm_raises
from vatt.launch.kubernetes import run_in_kubernetes
from vatt.launch.slurm import run_in_slurm
from vatt.launch.ssh import Local, Ssh
from vatt.launch.supervision import supervise
from vatt.train.finetuning import OnValidation, read_validations
from vatt.train.recipe import Job
from vatt.train.worker import run_job


def launch(job: Job, on_validation: OnValidation | None = None) -> None:
    """Run a job: one local process is this one; more are started by torchrun and supervised.

    SIGTERM and SIGINT end all processes, on all nodes, before this one. Only a job of this process
    tells `on_validation` what it measures.

    Raises:
        StageError: the job cannot go on, or failed too often; the message says where and why.
    """
    params = job.recipe.launch
    with sigterm_raises():
        match params.launcher:
            case "local" if params.num_processes == 1:
                run_job(job, on_validation)
            case "local":
                supervise(job, Local(params))
            case "ssh":
                supervise(job, Ssh(params))
            case "slurm":
                run_in_slurm(job)
            case "kubernetes":
                run_in_kubernetes(job)


def train_classifier(job: Job, on_validation: OnValidation | None = None) -> Path:
    """Run a job of fine-tuning, from its newest checkpoint, and return where the weights are.

    `on_validation` is told the step and the numbers of every measurement, in order, those before a
    resume and those of a finished run included: while it goes on where it is trained in this
    process, where it may raise to end the run, else at the end.

    Raises:
        BadStepsError: the numbers of the run went wrong.
        StageError: the job cannot go on, or failed too often.
    """
    launch_params = job.recipe.launch
    if launch_params.launcher == "local" and launch_params.num_processes == 1:
        launch(job, on_validation)
        return job.weights_path
    launch(job)
    if on_validation is not None:
        for row in read_validations(job):
            on_validation(int(row.pop("step")), row)
    return job.weights_path
