"""Starts a training run where `launch.launcher` says, and sees that no process is left behind."""

from vatt.signals import sigterm_raises
from vatt.train.jobs.finetuning import OnValidation
from vatt.train.jobs.recipes import Job
from vatt.train.launchers.kubernetes import run_in_kubernetes
from vatt.train.launchers.reach import Local, Ssh
from vatt.train.launchers.slurm import run_in_slurm
from vatt.train.launchers.supervisor import supervise
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
