"""Starts the processes of a training run on this machine, and sees that none is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil
import torch.distributed.run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from vatt.atomic import write_json
from vatt.params import StageError
from vatt.train.worker import Job, die_with_parent, run_job

GRACE_S = 10.0
LOG_LINES = 20
STAGE_ERROR = f"{StageError.__name__}: "


def launch(job: Job) -> None:
    """Run a job in this process, or in as many as `launch.num_processes` says, by torchrun.

    SIGTERM and SIGINT end all processes before this one.

    Raises:
        StageError: the job cannot go on, or a process died; the message holds its last output.
    """
    with _sigterm_raises():
        if job.recipe.launch.num_processes == 1:
            run_job(job)
        else:
            _run_torchrun(job)


def _run_torchrun(job: Job) -> None:
    log_dir = job.directory / "log"
    job_path, failure_path = job.directory / "job.json", log_dir / "failure.json"
    shutil.rmtree(log_dir, ignore_errors=True)
    write_json(job_path, job.model_dump(mode="json"))
    write_json(failure_path, {"message": "the launcher was killed"})
    others = ",".join(f"{rank}:3" for rank in range(1, job.recipe.launch.num_processes))
    command = [
        *(sys.executable, "-m", "vatt.train.launcher", str(failure_path)),
        *("--standalone", f"--nproc-per-node={job.recipe.launch.num_processes}"),
        *(f"--log-dir={log_dir}", f"--redirects={others}"),
        *("-m", "vatt.train.worker", str(job_path)),
    ]
    process = subprocess.Popen(command, env=_build_environment(job))
    try:
        if process.wait() != 0:
            raise StageError(json.loads(failure_path.read_text(encoding="utf-8"))["message"])
    finally:
        _end(process)


def _build_environment(job: Job) -> dict[str, str]:
    """Return the environment of the ranks: they talk over the loopback interface only."""
    return os.environ | {
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": str(job.recipe.launch.threads_per_process),
    }


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that every process started below is ended."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End torchrun and everything below it; the ranks have sessions of their own."""
    try:
        descendants = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for descendant in descendants:
        if descendant.is_running():
            descendant.kill()
    psutil.wait_procs(descendants)


def main() -> int:
    """Be torchrun, but end with the process that started it, and write down what failed first."""
    die_with_parent(signal.SIGTERM)
    failure_path = Path(sys.argv[1])
    try:
        torch.distributed.run.main(sys.argv[2:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        write_json(failure_path, {"message": _describe(rank, failure, failure_path.parent)})
        return 1
    return 0


def _describe(rank: int, failure: ProcessFailure, log_dir: Path) -> str:
    """Say which rank failed and how: a stage error as it is, others with where they happened."""
    if isinstance(failure.message, dict):  # what the worker recorded
        how, last_words = failure.message["message"], failure.message["extraInfo"]["py_callstack"]
        if how.startswith(STAGE_ERROR):
            return how.removeprefix(STAGE_ERROR)
    else:
        logs = log_dir.glob(f"*/attempt_*/{rank}/stderr.log")
        how, last_words = failure.message, "".join(log.read_text(errors="replace") for log in logs)
    return "\n".join([f"rank {rank} died: {how}", *last_words.splitlines()[-LOG_LINES:]])


if __name__ == "__main__":
    sys.exit(main())
