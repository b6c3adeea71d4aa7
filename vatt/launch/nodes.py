"""The nodes of a run, and how a command is started on each: here, by ssh or by srun."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from vatt.core.errors import StageError
from vatt.launch.command import run_command
from vatt.params import LaunchParams

HOST = re.compile(r"^(?P<host>[\w.@:%-]+)(\s+slots=(?P<slots>\d+))?$")


@dataclass(frozen=True)
class Node:
    """A machine that runs at most `slots` ranks."""

    name: str
    slots: int


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


def wrap_command(launch: LaunchParams, node: Node, command: list[str]) -> list[str]:
    """Return what runs `command` on `node`, in this folder, with its input and output here."""
    if launch.launcher == "ssh":
        return _wrap_in_ssh(launch, node, command)
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
    return command


def _wrap_in_ssh(launch: LaunchParams, node: Node, command: list[str]) -> list[str]:
    """Return ssh with the command; it asks for no password and gives up on a dead network."""
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
