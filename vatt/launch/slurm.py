"""A training or an evaluation as a Slurm job.

There are a script for sbatch, the wait for its end, and what runs inside it.
"""

import shlex
import sys
import time
from pathlib import Path

from vatt.core.errors import StageError
from vatt.core.files import atomic_path, write_json
from vatt.core.signals import sigterm_raises
from vatt.launch.cluster import run_command
from vatt.launch.supervision import supervise
from vatt.params import LaunchParams
from vatt.train.recipe import AnyJob, read_job

SETTING = "launch.launcher = slurm"
POLL_S = 2.0
FORGOTTEN = "Invalid job id"
"""What Slurm says of a job that ended some minutes ago; other errors say nothing of the job."""
ENDED = (FORGOTTEN, "already completing or completed")
ACTIVE = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD"),
    *("REQUEUE_FED", "RESIZING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "SPECIAL_EXIT"),
}


def run_in_slurm(job: AnyJob) -> None:
    """Submit a job and wait for it; one that a killed launcher left is cancelled first.

    Raises:
        StageError: sbatch refused it, or it ended without a result; the message holds its last
            words. Or Slurm does not say whether a job still runs; then none is submitted.
    """
    job.directory.mkdir(parents=True, exist_ok=True)
    number_path, log_path = job.directory / "slurm_job", job.directory / "slurm.log"
    if number_path.is_file():
        _cancel(number_path.read_text(encoding="utf-8"))  # both would write the same checkpoints
    job.result_path.unlink(missing_ok=True)
    log_path.unlink(missing_ok=True)
    script_path, job_path = job.directory / "slurm.sh", job.directory / "job.json"
    write_json(job_path, job.model_dump(mode="json"))
    script, section = build_script(job.recipe.launch, job_path, log_path), job.recipe.section
    with atomic_path(script_path) as partial:
        partial.write_text(script, encoding="utf-8")
    print(f"{section}: {script_path}:\n{script}", flush=True)
    number = run_command(["sbatch", "--parsable", str(script_path)], SETTING).split(";")[0]
    with atomic_path(number_path) as partial:
        partial.write_text(number, encoding="utf-8")
    print(f"{section}: Slurm job {number}, its output is {log_path}", file=sys.stderr, flush=True)
    try:
        _wait(number, log_path)
    finally:
        _cancel(number)
    if not job.result_path.is_file():
        lines = log_path.read_text(errors="replace").split("\n") if log_path.is_file() else []
        last = next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
        raise StageError(f"Slurm job {number} ended as {_find_state(number)}: {last}")


def build_script(launch: LaunchParams, job_path: Path, log_path: Path) -> str:
    """Return the script: Slurm's options, and the supervisor, which starts the agents by srun.

    The job survives the loss of nodes (--no-kill) and starts again when its first one is lost
    (--requeue); both times it goes on from what is done.
    """
    slurm = launch.slurm
    options = [
        *("--job-name=vatt", f"--nodes={slurm.num_nodes}", "--ntasks-per-node=1"),
        *(f"--cpus-per-task={slurm.cpus_per_node}", f"--time={slurm.time_limit}"),
        *(f"--output={log_path.absolute()}", f"--chdir={Path.cwd()}", "--open-mode=append"),
        *("--no-kill", "--requeue"),
        *([f"--partition={slurm.partition}"] if slurm.partition else []),
        *([f"--gpus-per-node={slurm.gpus_per_node}"] if slurm.gpus_per_node else []),
        *slurm.options,
    ]
    command = shlex.join([sys.executable, "-m", "vatt.launch.slurm", str(job_path)])
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), f"exec {command}"]
    return "\n".join(lines) + "\n"


def _wait(number: str, log_path: Path) -> None:
    """Show what the job writes until it has ended."""
    num_shown, is_active = 0, True
    while is_active:
        is_active = _find_state(number) in ACTIVE
        text = log_path.read_bytes()[num_shown:] if log_path.is_file() else b""
        num_shown += len(text)
        print(text.decode(errors="replace"), end="", file=sys.stderr, flush=True)
        time.sleep(POLL_S if is_active else 0.0)


def _cancel(number: str) -> None:
    """End a job, if it has not ended, and wait until none of its processes is left."""
    if _find_state(number) in ACTIVE:
        run_command(["scancel", number], SETTING, ENDED)
    while _find_state(number) in ACTIVE:
        time.sleep(POLL_S)


def _find_state(number: str) -> str:
    """Return the state of a job as Slurm calls it; UNKNOWN once it has forgotten the job.

    Raises:
        StageError: Slurm does not answer for a long time.
    """
    show = ["scontrol", "--oneliner", "show", "job", number]
    _, _, rest = run_command(show, SETTING, (FORGOTTEN,)).partition("JobState=")
    return (rest.split() or ["UNKNOWN"])[0]


if __name__ == "__main__":  # inside the Slurm job, on its first node
    job = read_job(Path(sys.argv[1]))
    try:
        with sigterm_raises():
            supervise(job)
    except StageError as error:
        sys.exit(f"{job.recipe.section}: {error}")
