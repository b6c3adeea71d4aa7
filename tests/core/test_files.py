"""A killed process leaves the old content or the new; a disk that refuses is named in a line."""

import json
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vatt.core.disk import name_disk_errors
from vatt.core.errors import StageError
from vatt.core.files import atomic_path, write_json

# Replaces old content by new again and again, each time killed one system call later, until an
# attempt gets through; prints what each attempt left.
KILLER = """
import json, os, shutil, signal, sys
from pathlib import Path
from vatt.core.files import atomic_path

def write(path, letter, is_folder):
    with atomic_path(path) as partial:
        if is_folder:
            partial.mkdir()
        for file in [partial / "a", partial / "b"] if is_folder else [partial]:
            with file.open("w") as stream:
                for _ in range(5):
                    stream.write(letter)
                    stream.flush()

def content(path):
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return " ".join(file.read_text() for file in files) if path.exists() else "none"

def attempt(path, is_folder, last):
    count = 0
    def trace(event, arguments):
        nonlocal count
        if event == "open" or event.startswith(("os.", "shutil.")):
            count += 1
            if count > last:
                os.kill(os.getpid(), signal.SIGKILL)
    pid = os.fork()
    if pid == 0:
        sys.addaudithook(trace)
        write(path, "n", is_folder)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0

path, is_folder = Path(sys.argv[1]) / "result", sys.argv[2] == "folder"
left, finished, last = [], False, 0
while not finished:
    write(path, "o", is_folder)
    finished = attempt(path, is_folder, last)
    left.append(content(path))
    last += 1
print(json.dumps(left))
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_at_any_system_call_leaves_the_old_or_the_new(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", KILLER, str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout)
    old, new = ("ooooo", "nnnnn") if kind == "file" else ("ooooo ooooo", "nnnnn nnnnn")
    assert len(left) > 5  # it was killed several times
    assert left[0] == old
    assert left[-1] == new
    assert set(left) <= {old, new} | ({"none"} if kind == "folder" else set())
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_an_exception_leaves_the_old_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError), atomic_path(path) as partial:
        partial.write_text("half \ud800", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_stands_at_the_path_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep/down/a.txt"
    with atomic_path(path) as partial:
        partial.write_text("new", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "new"
    assert list(path.parent.iterdir()) == [path]


def test_json_has_sorted_keys_and_no_numbers_that_json_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": "ü"})
    content = '{\n  "a": "ü",\n  "b": 1\n}\n'.encode()
    assert path.read_bytes() == content
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"loss": float("nan")})
    assert path.read_bytes() == content


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


LETTERS = "aZ.é字🎥"  # one to four bytes


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.text(LETTERS, max_size=10), num_bytes=st.integers(240, 255), is_folder=st.booleans())
def test_a_name_may_be_as_long_as_the_file_system_takes(
    tmp_path: Path, head: str, num_bytes: int, is_folder: bool
) -> None:
    """Two names that differ at the end alone are written at the same time, in turn."""
    names = [f"n{head}{'x' * (num_bytes - len(head.encode()) - 2)}{end}" for end in "01"]
    assert {len(name.encode()) for name in names} == {num_bytes}
    for attempt in ("first", "second"):
        with atomic_path(tmp_path / names[0]) as one, atomic_path(tmp_path / names[1]) as other:
            for partial, name in ((one, names[0]), (other, names[1])):
                if is_folder:
                    partial.mkdir()
                (partial / "file" if is_folder else partial).write_text(f"{attempt} {name}")
        for path in (tmp_path / name for name in names):
            content = path / "file" if is_folder else path
            assert content.read_text() == f"{attempt} {path.name}"
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
