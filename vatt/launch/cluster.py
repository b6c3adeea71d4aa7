"""The nodes of a cluster: which there are, what a command prints, and a line to a program on one.

A cluster is this machine, the hosts of a hostfile (ssh), or the nodes of a Slurm job (srun).
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vatt.core.errors import StageError
from vatt.launch.agent import FAILED_CODE, STAGE_ERROR_CODE
from vatt.params import LaunchParams

PATIENCE_S = 600.0
"""How long a controller may be away, as while it restarts, before a job is given up."""
ASK_AGAIN_S = 5.0
ERROR_BYTES = 2000
HOST = re.compile(r"^(?P<host>[\w.@:%-]+)(\s+slots=(?P<slots>\d+))?$")


class Node(NamedTuple):
    """A machine that runs at most `slots` ranks."""

    name: str
    slots: int


def run_command(command: Sequence[str], setting: str, answers: Sequence[str] | None = None) -> str:
    """Return what a command prints.

    With `answers`, it is run again, for PATIENCE_S, until it succeeds or fails with one of them,
    and what it failed with is returned.

    Raises:
        StageError: it failed, or is not on this machine, though `setting` of params.yaml needs it.
    """
    deadline_s, is_said = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise StageError(f"{setting}: {command[0]} is not on this machine") from error
        if done.returncode == 0:
            return done.stdout.strip()
        message = f"{shlex.join(command)}: {done.stderr.strip()}"
        if answers is not None and any(answer in message for answer in answers):
            return message
        if answers is None or time.monotonic() >= deadline_s:
            raise StageError(message)
        if not is_said:
            print(f"{message}\nasking again, for {PATIENCE_S:g} s", file=sys.stderr, flush=True)
            is_said = True
        time.sleep(ASK_AGAIN_S)


def list_nodes(launch: LaunchParams) -> list[Node]:
    """Return the nodes of a launcher in the order in which they are filled with ranks.

    Those of `slurm` are the nodes of the job in which this process runs, with even shares.

    Raises:
        StageError: the hostfile is wrong, or Slurm does not name the nodes.
    """
    if launch.launcher == "ssh":
        return read_hostfile(launch.ssh.hostfile)
    if launch.launcher == "slurm":
        show = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
        slots = -(-launch.num_processes // launch.slurm.num_nodes)
        names = run_command(show, "launch.launcher = slurm").split()
        return [Node(name, slots) for name in names]
    return [Node("this machine", launch.num_processes)]


def read_hostfile(path: Path) -> list[Node]:
    """Return the nodes of a hostfile: lines `host slots=N`, where N is 1 if it is left out.

    Raises:
        StageError: it cannot be read, or holds another line, a host twice, or no host.
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


def wrap_command(launch: LaunchParams, node: Node, command: list[str]) -> list[str]:
    """Return what runs `command` on `node`, in this folder, with its input and output here.

    ssh asks for no password and gives up on a dead network.
    """
    if launch.launcher == "slurm":
        slurm = launch.slurm
        return [
            *("srun", "--nodes=1", "--ntasks=1", f"--nodelist={node.name}", "--overlap"),
            *("--unbuffered", "--input=all", "--kill-on-bad-exit=1", "--quit-on-interrupt"),
            f"--cpus-per-task={slurm.cpus_per_node}",
            *([f"--gpus-per-node={slurm.gpus_per_node}"] if slurm.gpus_per_node else []),
            # That of the person who submitted the job, whose address is not the node's.
            *("env", "--unset=SSH_CONNECTION", *command),
        ]
    if launch.launcher != "ssh":
        return command
    timeout_s = max(1, round(launch.supervision.link_timeout_s))
    path = os.environ.get("PYTHONPATH")
    environment = ["env", f"PYTHONPATH={path}"] if path else []
    return [
        *("ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={timeout_s}"),
        # Where nobody is left to end ssh, it ends by itself, later than the launcher would.
        *("-o", f"ServerAliveInterval={timeout_s}", "-o", "ServerAliveCountMax=1"),
        *("-o", "ControlPath=none"),
        *(["-F", str(launch.ssh.config)] if launch.ssh.config else []),
        *("--", node.name),
        f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join([*environment, *command])}",
    ]


class Connection:
    """An agent that was started on a node, and the line of JSON by which it answers, if it has.

    All other lines from it are signs of life.
    """

    def __init__(self, launch: LaunchParams, node: Node, *arguments: str) -> None:
        self.node = node
        self.answer: Any = None
        self._heard_s, self._said, self._errors = time.monotonic(), b"", b""
        command = [sys.executable, "-m", "vatt.launch.agent", *arguments]
        self._process = subprocess.Popen(
            wrap_command(launch, node, command),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # On this machine it shares the terminal, which then shows a progress bar that moves.
            stderr=None if launch.launcher == "local" else subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches the launcher only
        )
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)

    def exchange(self) -> None:
        """Give a sign of life, take in what was answered, and show what came on standard error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(b"\n")
        if said := self._process.stdout.read():
            self._heard_s = time.monotonic()
            *lines, self._said = (self._said + said).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # an empty one, or a greeting of the shell
                    self.answer = json.loads(line)
        if self._process.stderr is not None and (errors := self._process.stderr.read()):
            self._errors = (self._errors + errors)[-ERROR_BYTES:]
            sys.stderr.buffer.write(errors)
            sys.stderr.flush()

    def find_loss(self, timeout_s: float) -> str | None:
        """Return why no answer will come any more, or None where it came or may come."""
        code = self._process.poll()
        self.exchange()
        if self.answer is not None:
            return None
        if code is not None:
            lines = self._errors.decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else f"the agent ended with exit code {code}"
        if time.monotonic() - self._heard_s > timeout_s:
            return f"silent for {timeout_s:g} s (link_timeout_s)"
        return None

    def hang_up(self) -> None:
        """Ask the agent to end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self, within_s: float) -> bool:
        """Return whether the agent ended `within_s` as it should, with all its processes."""
        deadline_s = time.monotonic() + within_s
        while self._process.poll() is None and time.monotonic() < deadline_s:
            self.exchange()  # the agent would wait for a pipe that is full
            time.sleep(0.1)
        self._process.kill()
        self.exchange()
        return self._process.wait() in (0, FAILED_CODE, STAGE_ERROR_CODE)
