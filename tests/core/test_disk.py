"""A disk that is full or refuses: a line that names the machine and the place, no traceback."""

import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vatt.core.disk import name_disk_errors
from vatt.core.errors import StageError

HOST = socket.gethostname()
ADVICE = "make room or give the right to write, and run again"
PARAMS = Path(__file__).parents[2] / "params.yaml"


def test_a_full_disk_is_told_with_the_place_that_the_error_does_not_name() -> None:
    with (
        pytest.raises(
            StageError, match=f"^{HOST}: here or there: No space left on device; {ADVICE}$"
        ),
        name_disk_errors(Path("here"), Path("there")),
        Path("/dev/full").open("w") as full,
    ):
        full.write("too much")


def test_errors_that_are_none_of_the_disk_pass() -> None:
    with pytest.raises(ConnectionResetError), name_disk_errors(Path("here")):
        raise ConnectionResetError(104, "Connection reset by peer")


def test_metrics_without_room_are_told(tmp_path: Path) -> None:
    """Of a download of nothing all files are empty; the metrics alone are too long."""
    (tmp_path / "inbox").mkdir()
    source = {"kind": "folder", "name": "inbox", "url": "inbox"}
    params = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    params["download"] = {"sources": [source]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "vatt", "download"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16)),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"download: {HOST}: data or metrics or .cache: File too large; {ADVICE}"
    )
    assert not (tmp_path / "metrics/download.json").exists()
