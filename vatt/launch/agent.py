"""Runs on each node: runs torchrun there, tells the launcher how it ends, and ends with it.

Twice a second both send a line through standard input and output, be they a pipe, ssh or srun. When
the launcher ends, dies or falls silent for `link_timeout_s`, everything below this process is
killed, so that no second attempt meets it at the checkpoints.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil

from vatt.core.errors import StageError
from vatt.core.signals import die_with_parent
from vatt.params import LaunchParams
from vatt.train.monitor import DIRECTORY_VARIABLE, Watch

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
    message: str = ""
    time_s: float = 0.0
    """When it happened, by the clock of the node, in seconds since 1970."""

    @property
    def exit_code(self) -> int:
        """The exit code of an agent that ends so."""
        return {"done": 0, "stage": STAGE_ERROR_CODE}.get(self.kind, FAILED_CODE)


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


def train(order: Sequence[str], is_lost: Callable[[], bool]) -> End:
    """Run torchrun to its end, or until a rank or the launcher is lost; nothing is left running.

    `order` holds the path of the job, the number of ranks here, the address of this node in the
    network of the ranks, and torchrun's options of the meeting. `is_lost` is asked again and again;
    it waits for a moment, and returns whether there is nobody to train for.
    """
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    job_path, num_ranks, *_ = order
    job = json.loads(Path(job_path).read_bytes())
    launch = LaunchParams.model_validate(job["recipe"]["launch"])  # a Job would import torch here
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with TemporaryDirectory(prefix="vatt-") as folder:
        watch = Watch(Path(folder), int(num_ranks), launch.supervision)
        arguments = (order, launch, Path(folder), sender)
        multiprocessing.get_context("fork").Process(target=_run, args=arguments).start()
        sender.close()
        try:
            while not is_lost():
                if receiver.poll():
                    end: End = receiver.recv()
                    return end
                if (stall := watch.find_stall()) is not None:
                    return End("stall", stall, time.time())
            return End("lost", "the launcher is gone", time.time())
        except EOFError:
            return End("died", "torchrun was killed", time.time())
        finally:
            kill_descendants()


def _run(order: Sequence[str], launch: LaunchParams, folder: Path, sender: Pipe) -> None:
    """Run torchrun as a process of its own, with heartbeats and logs in `folder`; send its end."""
    die_with_parent()
    job_path, num_ranks, address, *meeting = order
    interfaces = [
        name
        for name, found in psutil.net_if_addrs().items()
        if address in {a.address for a in found}
    ]
    os.environ |= {
        "GLOO_SOCKET_IFNAME": (interfaces or ["lo"])[0],
        "NCCL_SOCKET_IFNAME": (interfaces or ["lo"])[0],
        "OMP_NUM_THREADS": str(launch.threads_per_process),
        DIRECTORY_VARIABLE: str(folder),
    }
    # Only the first rank of a node writes to standard error; the words of others wait in files.
    others = ",".join(f"{rank}:3" for rank in range(1, int(num_ranks)))
    options = [*meeting, f"--nproc-per-node={num_ranks}", f"--log-dir={folder / 'log'}"]
    options += [f"--redirects={others}"] if others else []

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun([*options, "-m", "vatt.train.worker", job_path])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        kind, how, words = "died", failure.message, ""
        if isinstance(failure.message, dict):  # what the worker recorded
            kind, how = "error", failure.message["message"]
            words = failure.message["extraInfo"]["py_callstack"]
        for log in (folder / "log").glob(f"*/attempt_*/{failure.local_rank}/stderr.log"):
            words = words or log.read_text(errors="replace")
        message = "\n".join([f"rank {rank} died: {how}", *words.splitlines()[-LOG_LINES:]])
        if how.startswith(STAGE_ERROR):
            kind, message = "stage", how.removeprefix(STAGE_ERROR)
        sender.send(End(kind, message, failure.timestamp))
    else:
        sender.send(End("done"))


def kill_descendants() -> None:
    """Kill all that runs below this process, in whatever session or state it is."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=LOOK_EVERY_S)


def main() -> int:
    """Train as ordered on the command line, in touch with the launcher; return the exit code."""
    heard_s = time.monotonic()
    from_launcher, to_launcher = os.dup(0), os.dup(1)
    # What ranks print goes to standard error, and they have nothing to read.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def is_lost() -> bool:
        nonlocal heard_s
        send("")
        if select.select([from_launcher], [], [], LOOK_EVERY_S)[0]:
            heard_s = time.monotonic()
            if not os.read(from_launcher, 4096):
                return True
        return time.monotonic() - heard_s > link_timeout_s

    def send(line: str) -> None:
        with contextlib.suppress(OSError):  # `is_lost` notices a launcher that is gone
            os.write(to_launcher, f"{line}\n".encode())

    link_timeout_s = float(sys.argv[1])
    end = train(sys.argv[2:], is_lost)
    send(json.dumps(end))
    return end.exit_code


if __name__ == "__main__":
    sys.exit(main())
