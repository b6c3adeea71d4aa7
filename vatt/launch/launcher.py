"""Starts a training or an evaluation where `launch.launcher` says, and leaves no process behind."""

from vatt.core.signals import sigterm_raises
from vatt.launch.kubernetes import run_in_kubernetes
from vatt.launch.slurm import run_in_slurm
from vatt.launch.supervision import supervise
from vatt.train.finetuning import OnValidation, read_validations
from vatt.train.recipe import AnyJob, Job
from vatt.train.worker import run_job


def launch(job: Job, on_validation: OnValidation | None = None) -> None:
    """Run a job from its newest checkpoint until its weights are at `job.weights_path`.

    One local process is this one; more are started by torchrun and supervised. SIGTERM and SIGINT
    end all processes, on all nodes, before this one. For a job of fine-tuning, `on_validation` is
    called with the step and the numbers of every measurement, in order, those before a resume and
    those of a finished run included: during training if this process trains, where it may raise to
    end the run, else at the end.

    Raises:
        BadStepsError: the numbers of the run went wrong.
        StageError: the job cannot go on, or failed too often; the message says where and why.
    """
    params = job.recipe.launch
    with sigterm_raises():
        if params.launcher == "local" and params.num_processes == 1:
            run_job(job, on_validation)
            return
    launch_ranks(job)
    if on_validation is not None:
        for row in read_validations(job):
            on_validation(int(row.pop("step")), row)


def launch_ranks(job: AnyJob) -> None:
    """Run a job by torchrun, also of one process, until its result is there; errors as `launch`."""
    run = {"slurm": run_in_slurm, "kubernetes": run_in_kubernetes}.get(job.recipe.launch.launcher)
    with sigterm_raises():
        (run or supervise)(job)
