"""How the nodes of a run are reached: the small interface behind which launchers differ.

The launcher's end of the line to the agent of one node.
"""

import codecs
import collections
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from vatt.core.errors import StageError
from vatt.params import LaunchParams

ERROR_BYTES = 2000
FAILED = 3
CLEAN_EXIT_CODES = (0, FAILED)
"""Of an agent that left no process behind; ssh and srun have others for a lost node."""


@dataclass(frozen=True)
class Node:
    """A machine that runs at most `slots` ranks."""

    name: str
    slots: int


class Connection:
    """An agent that was started on a node, and what it has said so far.

    hello, end: None until it has said so. An agent on this machine `shares_terminal`, which then
    shows a progress bar that moves.
    """

    def __init__(self, node: Node, command: list[str], *, shares_terminal: bool) -> None:
        self.node = node
        self.hello: dict[str, Any] | None = None
        self.end: dict[str, Any] | None = None
        self.heard_s = time.monotonic()
        self._errors: collections.deque[int] = collections.deque(maxlen=ERROR_BYTES)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if shares_terminal else subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches the launcher only
        )
        assert self._process.stdout is not None
        self._threads = [_start_thread(self._listen, self._process.stdout)]
        if self._process.stderr is not None:
            self._threads.append(_start_thread(self._show, self._process.stderr))

    def send(self, message: dict[str, Any]) -> None:
        """Send one line; an empty message is a sign of life."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write((json.dumps(message) + "\n").encode())
            self._process.stdin.flush()

    def find_loss(self, link_timeout_s: float) -> str | None:
        """Say why nothing more will come from the agent, or None."""
        if self.end is not None:
            return None
        if self._process.poll() is not None:
            self._join_threads()
            if self.end is None:
                code = self._process.returncode
                return self.last_error() or f"the agent ended with exit code {code}"
            return None
        if time.monotonic() - self.heard_s > link_timeout_s:
            return f"silent for {link_timeout_s:g} s (link_timeout_s)"
        return None

    def last_error(self) -> str:
        """Return the last line that came from the node's standard error."""
        lines = bytes(self._errors).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def hang_up(self) -> None:
        """Ask the agent to end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def close(self, within_s: float) -> bool:
        """Return whether the agent that was asked ended `within_s`, with all its processes."""
        try:
            self._process.wait(max(within_s, 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._join_threads()
        return self._process.returncode in CLEAN_EXIT_CODES

    def _join_threads(self) -> None:
        for thread in self._threads:
            thread.join(1.0)

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.heard_s = time.monotonic()
            try:
                message = json.loads(line)
            except ValueError:  # a greeting of the node's shell
                continue
            self.hello = message.get("hello", self.hello)
            self.end = message.get("end", self.end)

    def _show(self, stream: IO[bytes]) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while chunk := os.read(stream.fileno(), 4096):
            self._errors.extend(chunk)
            sys.stderr.write(decoder.decode(chunk))
            sys.stderr.flush()


def _start_thread(target: Callable[[IO[bytes]], None], stream: IO[bytes]) -> threading.Thread:
    thread = threading.Thread(target=target, args=(stream,), daemon=True)
    thread.start()
    return thread


HOST = re.compile(r"^(?P<host>[\w.@:%-]+)(\s+slots=(?P<slots>\d+))?$")


class Reach(Protocol):
    """Starts a command on a node, with its standard input and output here."""

    shares_terminal: bool

    def list_nodes(self) -> list[Node]:
        """Return the nodes in the order in which they are filled with ranks.

        Raises:
            StageError: they are not known.
        """

    def wrap(self, node: Node, command: list[str]) -> list[str]:
        """Return the command that runs `command` on `node`, in the folder of this process."""


@dataclass(frozen=True)
class Local:
    """This machine."""

    launch: LaunchParams
    shares_terminal = True

    def list_nodes(self) -> list[Node]:
        """Return this machine with as many slots as there are processes."""
        return [Node("this machine", self.launch.num_processes)]

    def wrap(self, node: Node, command: list[str]) -> list[str]:  # noqa: ARG002 - there is one node
        """Return the command as it is."""
        return command


@dataclass(frozen=True)
class Ssh:
    """Machines of a hostfile, reached by ssh without a password."""

    launch: LaunchParams
    shares_terminal = False

    def list_nodes(self) -> list[Node]:
        """Return the hosts of `launch.ssh.hostfile`."""
        return read_hostfile(self.launch.ssh.hostfile)

    def wrap(self, node: Node, command: list[str]) -> list[str]:
        """Return ssh with the command; it asks for nothing and gives up on a dead network."""
        timeout_s = max(1, round(self.launch.supervision.link_timeout_s))
        config = self.launch.ssh.config
        path = os.environ.get("PYTHONPATH")
        environment = ["env", f"PYTHONPATH={path}"] if path else []
        remote = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join([*environment, *command])}"
        return [
            *("ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={timeout_s}"),
            # Where nobody is left to end ssh, it ends by itself, later than the launcher would.
            *("-o", f"ServerAliveInterval={timeout_s}", "-o", "ServerAliveCountMax=1"),
            *("-o", "ControlPath=none"),
            *(["-F", str(config)] if config else []),
            *("--", node.name, remote),
        ]


@dataclass(frozen=True)
class Srun:
    """The nodes of the Slurm job in which this process runs."""

    launch: LaunchParams
    names: tuple[str, ...]
    shares_terminal = False

    def list_nodes(self) -> list[Node]:
        """Return the nodes of the job; the processes are spread evenly."""
        slots = -(-self.launch.num_processes // self.launch.slurm.num_nodes)
        return [Node(name, slots) for name in self.names]

    def wrap(self, node: Node, command: list[str]) -> list[str]:
        """Return srun with the command, as one task that has the whole node."""
        slurm = self.launch.slurm
        return [
            *("srun", "--nodes=1", "--ntasks=1", f"--nodelist={node.name}", "--overlap"),
            *("--unbuffered", "--input=all", "--kill-on-bad-exit=1", "--quit-on-interrupt"),
            f"--cpus-per-task={slurm.cpus_per_node}",
            *([f"--gpus-per-node={slurm.gpus_per_node}"] if slurm.gpus_per_node else []),
            *command,
        ]


def read_hostfile(path: Path) -> list[Node]:
    """Return the nodes of a hostfile: lines `host slots=N`, N is 1 where it is left out.

    Raises:
        StageError: it cannot be read, holds another line, a host twice, or none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StageError(f"launch.ssh.hostfile = {path}: {error.strerror}") from error
    nodes: dict[str, Node] = {}
    for number, line in enumerate(lines, start=1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        match = HOST.match(text)
        if match is None or match["host"].startswith("-") or match["slots"] == "0":
            raise StageError(f"{path}, line {number}: {text!r} is not `host slots=N` with N from 1")
        if match["host"] in nodes:
            raise StageError(f"{path}, line {number}: {match['host']} is there twice")
        nodes[match["host"]] = Node(match["host"], int(match["slots"] or 1))
    if not nodes:
        raise StageError(f"{path}: holds no host; a line is `host slots=N`")
    return list(nodes.values())


def build_agent_command(question: str) -> list[str]:
    """Return the command that starts the agent of a node."""
    return [sys.executable, "-m", "vatt.launch.agent", question]
