"""What a node must have in common with the machine that starts training, compared before it starts."""

import hashlib
import os
import platform
import socket
from collections.abc import Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

PACKAGE_DIR = Path(__file__).parents[3]
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
            "the code of vatt": _digest_code(),
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


def _digest_code() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(PACKAGE_DIR.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
