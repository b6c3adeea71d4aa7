"""How the nodes of a run are reached: the small interface behind which launchers differ."""

import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vatt.params import LaunchParams, StageError
from vatt.train.launchers.connection import Node

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
    return [sys.executable, "-m", "vatt.train.launchers.node.agent", question]
