"""What a node must have in common with the machine that starts a training, compared before it."""

import json
import os
import platform
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vatt.core.code import digest_code

MARK_NAME = "launch_mark"
PACKAGES = ("torch", "deepspeed", "numpy")


def collect_facts(directory: Path, preprocess_dir: Path, port: int | None) -> dict[str, Any]:
    """Return what this machine is, as JSON: address, free port, GPUs, versions, code, files.

    The port is `port`, or a free one for None; it is None if it is in use.
    """
    shards = sorted((preprocess_dir / "shards").glob("*.tar"))
    mark = directory / MARK_NAME
    return {
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


def find_problems(
    there: Mapping[str, Any], here: Mapping[str, Any], num_ranks: int, number: int | None
) -> Iterator[str]:
    """Yield why a node cannot run `num_ranks` of a training started `here`.

    `number` is its place among several nodes, of which the first, 0, opens the port to meet at;
    None for a node that is alone.
    """
    if there["mark"] != here["mark"]:
        yield "does not see the same .cache, which must be on a shared disk"
    for name, expected in here["versions"].items():
        if (found := there["versions"][name]) != expected:
            yield f"{name} is {found} there and {expected} here"
    for path, size in here["files"].items():
        if (found := there["files"].get(path)) != size:
            state = "is missing" if found is None else f"has {found} bytes there, {size} here"
            yield f"{path} {state}"
    if 0 < there["gpus"] < num_ranks:
        yield f"has {there['gpus']} GPUs for {num_ranks} processes; mend its slots"
    address = there["address"]
    if number is not None and address is None:
        yield "its name leads to no address"
    elif number is not None and address.startswith("127."):
        yield f"its name leads to {address}, where other nodes do not reach it"
    if number == 0 and there["port"] is None:
        yield "launch.port is in use there; null takes a free one"


def _find_address() -> str | None:
    """Return the address at which others reach this machine: that to which ssh came, if it did."""
    if "SSH_CONNECTION" in os.environ:
        return os.environ["SSH_CONNECTION"].split()[2]
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def _find_port(port: int | None) -> int | None:
    try:
        with socket.create_server(("", port or 0)) as trial:
            return int(trial.getsockname()[1])
    except OSError:
        return None


if __name__ == "__main__":
    directory, preprocess_dir, port = json.loads(sys.argv[1])
    print(json.dumps(collect_facts(Path(directory), Path(preprocess_dir), port)))
