"""Runs on each node: starts torchrun there, tells the launcher how it goes, and ends with it.

The launcher speaks to it through standard input and output, a line of JSON each time: how it was
started (a pipe, ssh, srun) makes no difference. When the launcher ends, dies or falls silent for
`link_timeout_s`, everything below this process is killed.

What a node must have in common with the machine that starts training, compared before it starts.
"""

import contextlib
import ctypes
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import psutil

from vatt.core.code import digest_code
from vatt.core.files import write_json
from vatt.launch.ssh import FAILED
from vatt.params.launch import SupervisionParams
from vatt.train.heartbeat import DIRECTORY_VARIABLE, Watch

MARK_NAME = "launch_mark"
PACKAGES = ("torch", "deepspeed", "numpy")


def collect_facts(directory: Path, preprocess_dir: Path, port: int | None) -> dict[str, Any]:
    """Return what this machine is, as JSON: address, free port, GPUs, versions, code, files."""
    shards = sorted((preprocess_dir / "shards").glob("*.tar"))
    mark = directory / MARK_NAME
    return {
        "host": socket.gethostname(),
        "address": _find_address(),
        "port": _find_port(port),
        "gpus": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "mark": mark.read_text(encoding="utf-8") if mark.is_file() else None,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "the code of vatt": digest_code("."),
        },
        "files": {str(path): path.stat().st_size for path in shards},
    }


def find_problem(facts: Mapping[str, Any], here: Mapping[str, Any], num_ranks: int) -> str | None:
    """Say why a node with `facts` cannot run `num_ranks` of a training started `here`, or None."""
    problems = []
    if facts["mark"] != here["mark"]:
        problems.append("does not see the same .cache, which must be on a shared disk")
    for name, expected in here["versions"].items():
        if (found := facts["versions"][name]) != expected:
            problems.append(f"{name} is {found} there and {expected} here")
    for path, size in here["files"].items():
        if (there := facts["files"].get(path)) != size:
            state = "is missing" if there is None else f"has {there} bytes there, {size} here"
            problems.append(f"{path} {state}")
    if 0 < facts["gpus"] < num_ranks:
        problems.append(f"has {facts['gpus']} GPUs for {num_ranks} processes; mend its slots")
    return problems[0] if problems else None


def find_interface(address: str) -> str | None:
    """Return the network interface of this machine that has `address`."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            return str(name)
    return None


def _find_address() -> str | None:
    """Return the address at which others reach this machine: the one that ssh came to, if it did."""
    if "SSH_CONNECTION" in os.environ:
        return os.environ["SSH_CONNECTION"].split()[2]
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def _find_port(port: int | None) -> int | None:
    """Return `port`, or a free one for None; None if it is in use."""
    with closing(socket.socket()) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port or 0))
            trial.listen()
        except OSError:
            return None
        return int(trial.getsockname()[1])


LOOK_EVERY_S = 0.5
SET_CHILD_SUBREAPER = 36


class Link:
    """The lines from and to the launcher."""

    def __init__(self) -> None:
        self.heard_s = time.monotonic()
        self.is_closed = False
        self.order: dict[str, Any] | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, **message: Any) -> None:
        """Send one line; a launcher that is gone is noticed elsewhere."""
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), (json.dumps(message) + "\n").encode())

    def is_lost(self, link_timeout_s: float) -> bool:
        """Return whether the launcher is gone, or silent for too long."""
        return self.is_closed or time.monotonic() - self.heard_s > link_timeout_s

    def _listen(self) -> None:
        for line in sys.stdin:
            self.heard_s = time.monotonic()
            content = json.loads(line)
            if content:
                self.order = content
        self.is_closed = True


def run(question: Mapping[str, Any]) -> int:
    """Say hello, wait for the order, do it, and say how it ended."""
    limits = SupervisionParams.model_validate(question["supervision"])
    link = Link()
    directory, preprocess_dir = Path(question["directory"]), Path(question["preprocess_dir"])
    link.send(hello=collect_facts(directory, preprocess_dir, question["port"]))
    while link.order is None:
        if link.is_lost(limits.link_timeout_s):
            return FAILED
        time.sleep(LOOK_EVERY_S / 5)

    def tell(ranks: Mapping[int, Any]) -> bool:
        link.send(ranks=ranks)
        return not link.is_lost(limits.link_timeout_s)

    end = train(link.order, limits, tell)
    link.send(end=end)
    return 0 if end["kind"] == "done" else FAILED


def train(
    order: Mapping[str, Any], limits: SupervisionParams, tell: Callable[[Mapping[int, Any]], bool]
) -> dict[str, Any]:
    """Run torchrun as ordered, to its end or to that of the patience; nothing is left running.

    `tell` takes what the ranks do, and returns whether to go on.

    Returns:
        The end as JSON: its kind, a message, and when it was.
    """
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)  # orphans below stay below
    with tempfile.TemporaryDirectory(prefix="vatt-") as folder:
        try:
            return _follow(order, limits, tell, Path(folder))
        finally:
            kill_descendants()


def _follow(
    order: Mapping[str, Any],
    limits: SupervisionParams,
    tell: Callable[[Mapping[int, Any]], bool],
    folder: Path,
) -> dict[str, Any]:
    process = start_torchrun(order, folder)
    watch = Watch(folder / "heartbeats")
    while process.poll() is None:
        time.sleep(LOOK_EVERY_S)
        ranks = watch.look()
        if not tell(ranks):
            return {"kind": "lost", "message": "the launcher is gone", "time_s": time.time()}
        stall = watch.find_stall(ranks, order["num_ranks"], limits)
        if stall is not None:
            return {"kind": "stall", "message": stall, "time_s": time.time()}
    if process.returncode == 0:
        return {"kind": "done", "message": "", "time_s": time.time()}
    failure: dict[str, Any] = json.loads((folder / "failure.json").read_text(encoding="utf-8"))
    return failure


def start_torchrun(order: Mapping[str, Any], folder: Path) -> "subprocess.Popen[bytes]":
    """Start torchrun as ordered, with job, failure and heartbeats in `folder`."""
    (folder / "heartbeats").mkdir()
    write_json(folder / "job.json", order["job"])
    message = "torchrun was killed"
    write_json(folder / "failure.json", {"kind": "died", "message": message, "time_s": time.time()})
    others = ",".join(f"{rank}:3" for rank in range(1, order["num_ranks"]))
    command = [
        *(sys.executable, "-m", "vatt.launch.torchrun", str(folder / "failure.json")),
        *order["arguments"],
        *(f"--nproc-per-node={order['num_ranks']}", f"--log-dir={folder / 'log'}"),
        *([f"--redirects={others}"] if others else []),
        *("-m", "vatt.train.worker", str(folder / "job.json")),
    ]
    interface = find_interface(order["address"]) or "lo"
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        "OMP_NUM_THREADS": str(order["job"]["recipe"]["launch"]["threads_per_process"]),
        DIRECTORY_VARIABLE: str(folder / "heartbeats"),
    }
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno()
    )


def kill_descendants() -> None:
    """Kill all that runs below this process, in whatever session or state it is."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=LOOK_EVERY_S)


def main() -> NoReturn:
    """Answer the question of the launcher on the command line."""
    code = run(json.loads(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)  # a thread waits for standard input


if __name__ == "__main__":
    main()
