"""Fine-tuning through the same launchers, engine and loop as pre-training."""

from pathlib import Path

from vatt.train.jobs.finetuning import OnValidation, read_validations
from vatt.train.jobs.recipes import Job
from vatt.train.launcher import launch


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
