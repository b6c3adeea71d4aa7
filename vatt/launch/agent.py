"""Runs on each node: runs torchrun there, tells the launcher how it ends, and ends with it.

Twice a second both send a line through standard input and output, be they a pipe, ssh or srun. When
the launcher ends, dies or falls silent for `link_timeout_s`, everything below this process is
killed, so that no second attempt meets it at the checkpoints.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import psutil

from vatt.core.errors import StageError
from vatt.train.heartbeat import DIRECTORY_VARIABLE, Watch
from vatt.train.recipe import Job

LOOK_EVERY_S = 0.5
LOG_LINES = 20
FAILED_CODE, STAGE_ERROR_CODE = 3, 4
"""Exit codes after a failure; ssh and srun have others for a lost node."""
STAGE_ERROR = f"{StageError.__name__}: "
SET_CHILD_SUBREAPER = 36
"""The option of Linux's prctl by which orphans below a process stay below it."""


class End(NamedTuple):
    """How an attempt ended on a node."""

    kind: str
    """done, stage (a StageError, which would only come again), lost, died, stall or error."""
    message: str
    time_s: float = 0.0
    """When it happened, by the clock of the node, in seconds since 1970."""


class Link:
    """The lines from and to the launcher, through what were standard input and output.

    The ranks find /dev/null and standard error in their places.
    """

    def __init__(self) -> None:
        self._heard_s = time.monotonic()
        self._input, self._output = os.dup(0), os.dup(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)

    def send(self, text: str = "") -> None:
        """Send one line, which may be empty; `is_lost` notices a launcher that is gone."""
        with contextlib.suppress(OSError):
            os.write(self._output, f"{text}\n".encode())

    def is_lost(self, timeout_s: float) -> bool:
        """Look for a line for a moment; return whether the launcher is gone, or silent so long."""
        self.send()
        if select.select([self._input], [], [], LOOK_EVERY_S)[0]:
            self._heard_s = time.monotonic()
            if not os.read(self._input, 4096):
                return True
        return time.monotonic() - self._heard_s > timeout_s


def build_order(
    job_path: Path, num_ranks: int, address: str, number: int, meeting: tuple[int, str, int]
) -> list[str]:
    """Return what `train` runs on node `number`, counted from 0, which has an `address`.

    `meeting` holds the number of nodes, and the address and the port of the first one; a node that
    is alone meets nobody.
    """
    num_nodes, first_address, port = meeting
    if num_nodes == 1:
        return [str(job_path), str(num_ranks), "127.0.0.1", "--standalone"]
    options = [f"--nnodes={num_nodes}", f"--node-rank={number}"]
    options += [f"--master-addr={first_address}", f"--master-port={port}"]
    return [str(job_path), str(num_ranks), address, *options]


def train(order: Sequence[str], report: Callable[[End], None], link: Link | None) -> NoReturn:
    """Run torchrun to its end or to that of the patience; kill what is left, report, and exit.

    `order` holds the path of the job, the number of ranks here, the address of this node in the
    network of the ranks, and torchrun's options of the meeting.
    """
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    job_path, num_ranks, address, *meeting = order
    launch = Job.model_validate_json(Path(job_path).read_bytes()).recipe.launch
    folder, leaving = Path(tempfile.mkdtemp(prefix="vatt-")), threading.Lock()
    heartbeats = Watch(folder / "heartbeats", int(num_ranks), launch.supervision)
    heartbeats.directory.mkdir()

    def leave(end: End) -> NoReturn:
        leaving.acquire()  # for good: of two ends the first one counts
        kill_descendants()
        shutil.rmtree(folder, ignore_errors=True)
        report(end)
        codes = {"done": 0, "stage": STAGE_ERROR_CODE}
        os._exit(codes.get(end.kind, FAILED_CODE))

    def watch() -> None:
        while (stall := heartbeats.find_stall()) is None:
            if link is None:
                time.sleep(LOOK_EVERY_S)
            elif link.is_lost(launch.supervision.link_timeout_s):
                leave(End("lost", "the launcher is gone", time.time()))
        leave(End("stall", stall, time.time()))

    threading.Thread(target=watch, daemon=True).start()
    interfaces = psutil.net_if_addrs().items()
    interface = next(
        (name for name, all_ in interfaces if address in {a.address for a in all_}), "lo"
    )
    os.environ |= {
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        "OMP_NUM_THREADS": str(launch.threads_per_process),
        DIRECTORY_VARIABLE: str(heartbeats.directory),
    }
    # Only the first rank of a node writes to standard error; the words of others wait in files.
    others = ",".join(f"{rank}:3" for rank in range(1, int(num_ranks)))
    meeting += [f"--nproc-per-node={num_ranks}", f"--log-dir={folder}"]
    meeting += [f"--redirects={others}"] if others else []
    leave(_run_torchrun([*meeting, "-m", "vatt.train.worker", job_path], folder))


def _run_torchrun(arguments: Sequence[str], log_dir: Path) -> End:
    """Run torchrun and return how it ended: a stage error as it is, others with where they were."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if isinstance(failure.message, dict):  # what the worker recorded
            how, words = failure.message["message"], failure.message["extraInfo"]["py_callstack"]
            if how.startswith(STAGE_ERROR):
                return End("stage", how.removeprefix(STAGE_ERROR), failure.timestamp)
        else:
            logs = log_dir.glob(f"*/attempt_*/{failure.local_rank}/stderr.log")
            how, words = failure.message, "".join(log.read_text(errors="replace") for log in logs)
        lines = [f"rank {rank} died: {how}", *words.splitlines()[-LOG_LINES:]]
        kind = "error" if isinstance(failure.message, dict) else "died"
        return End(kind, "\n".join(lines), failure.timestamp)
    except Exception as error:  # noqa: BLE001 - such as nodes that do not meet
        return End("died", f"torchrun ended: {error}", time.time())
    return End("done", "", time.time())


def kill_descendants() -> None:
    """Kill all that runs below this process, in whatever session or state it is."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=LOOK_EVERY_S)


if __name__ == "__main__":
    to_launcher = Link()
    train(sys.argv[1:], lambda end: to_launcher.send(json.dumps(end)), to_launcher)
