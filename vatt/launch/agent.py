"""Runs on each node: says what the node is, or runs torchrun there and ends with the launcher.

While torchrun runs, launcher and agent send each other a line twice a second through standard input
and output, be they a pipe, ssh or srun. When the launcher ends, dies or falls silent for
`link_timeout_s`, everything below this process is killed, so that no second attempt meets it at the
checkpoints.
"""

import contextlib
import json
import multiprocessing
import os
import platform
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil

from vatt.core.code import digest_code
from vatt.core.errors import StageError
from vatt.core.signals import adopt_orphans, die_with_parent, stop_descendants
from vatt.params import LaunchParams
from vatt.train.monitor import DIRECTORY_VARIABLE, Watch

MARK_NAME = "launch_mark"
PACKAGES = ("torch", "deepspeed", "numpy")
LOOK_EVERY_S = 0.5
LOG_LINES = 20
FAILED_CODE, STAGE_ERROR_CODE = 3, 4
"""Exit codes after a failure; ssh and srun have others for a lost node."""
STAGE_ERROR = f"{StageError.__name__}: "


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


def collect_facts(directory: Path, preprocess_dir: Path, port: int | None) -> dict[str, Any]:
    """Return what this machine is, as JSON: address, free port, GPUs, versions, code, files.

    The address is that to which ssh came, if it did. The port is `port`, or a free one for None; it
    is None if it is in use.
    """
    free_port = address = mark = None
    with contextlib.suppress(OSError), socket.create_server(("", port or 0)) as trial:
        free_port = int(trial.getsockname()[1])
    if "SSH_CONNECTION" in os.environ:
        address = os.environ["SSH_CONNECTION"].split()[2]
    else:
        with contextlib.suppress(OSError):
            address = socket.gethostbyname(socket.gethostname())
    with contextlib.suppress(FileNotFoundError):
        mark = (directory / MARK_NAME).read_text(encoding="utf-8")
    return {
        "address": address,
        "port": free_port,
        "gpus": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "mark": mark,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "the code of vatt": digest_code("."),
        },
        "files": {
            str(path): path.stat().st_size
            for path in sorted((preprocess_dir / "shards").glob("*.tar"))
        },
    }


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
    adopt_orphans()
    job_path, num_ranks, *_ = order
    job = json.loads(Path(job_path).read_bytes())
    launch = LaunchParams.model_validate(job["recipe"]["launch"])  # a Job would import torch here
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with TemporaryDirectory(prefix="vatt-") as folder:
        watch = Watch(Path(folder), int(num_ranks), launch.supervision)
        arguments = (order, job["worker"], launch, Path(folder), sender)
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
            stop_descendants()


def _run(
    order: Sequence[str], worker: str, launch: LaunchParams, folder: Path, sender: Pipe
) -> None:
    """Run torchrun as a process of its own, with heartbeats and logs in `folder`; send its end."""
    die_with_parent()
    job_path, num_ranks, address, *meeting = order
    interfaces = psutil.net_if_addrs().items()
    found = (name for name, known in interfaces if address in {one.address for one in known})
    interface = next(found, "lo")
    os.environ |= {
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
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
        torchrun([*options, "-m", worker, job_path])
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


def main(purpose: str, *arguments: str) -> int:
    """Answer with a line of JSON: `facts` about this node, or how a job that is ordered ends.

    The other arguments are those of `collect_facts`, as one text of JSON; or, after `train`,
    `link_timeout_s` and the order.
    """
    if purpose == "facts":
        directory, preprocess_dir, port = json.loads(arguments[0])
        print(json.dumps(collect_facts(Path(directory), Path(preprocess_dir), port)))
        return 0
    heard_s, link_timeout_s = time.monotonic(), float(arguments[0])
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

    end = train(arguments[1:], is_lost)
    send(json.dumps(end))
    return end.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
