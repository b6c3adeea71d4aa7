"""A disk that fills up: a clear error, nothing lost, and the rest in the next run."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.download.misbehaving_server import content_of, serve
from vatt.core.errors import StageError
from vatt.download.fetch import fetch_all
from vatt.download.remote_files import RemoteFile
from vatt.params import FetchParams

QUICK = FetchParams(connections=3, tries=2, backoff_s=0.01, stall_s=5.0, min_free_gb=0.0)
NAMES = [f"well/{number}" for number in range(20)]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB; the current folder lies on it."""
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None or not mount(folder, "size=3m"):
        pytest.skip("needs the right to mount a tmpfs")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_small_disk_fills_up_and_is_made_larger(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, is_checked: bool
) -> None:
    with serve() as (address, record):
        files = [RemoteFile(name, f"{address}/{name}") for name in NAMES]
        with monkeypatch.context() as patch:
            if not is_checked:  # as when others fill the disk: the system says it first
                patch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**12))
            with pytest.raises(StageError) as caught:
                fetch_all(files, Path("out"), QUICK)
        reason = "must stay free" if is_checked else "No space left|disk is full"
        assert caught.match(reason)
        assert caught.match("make room|disk is full")
        done = [name for name in NAMES if Path("out", name).exists()]
        assert 0 < len(done) < 10
        for name in done:
            assert Path("out", name).read_bytes() == content_of(f"/{name}")
        record.requests.clear()
        assert mount(small_disk, "remount,size=32m")
        assert fetch_all(files, Path("out"), QUICK) == dict.fromkeys(NAMES)
        assert not {path for path, _ in record.requests} & {f"/{name}" for name in done}
    for name in NAMES:
        assert Path("out", name).read_bytes() == content_of(f"/{name}")


def test_nothing_is_asked_for_on_a_full_disk() -> None:
    with serve() as (address, record):
        files = [RemoteFile(name, f"{address}/{name}") for name in NAMES]
        params = QUICK.model_copy(update={"min_free_gb": 1e9})
        with pytest.raises(StageError, match=r"min_free_gb = 1000000000\.0 must stay free"):
            fetch_all(files, Path("out"), params)
        assert record.requests == []


def test_the_rest_of_a_file_is_looked_at_before_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 250_000))
    with serve() as (address, _):
        with pytest.raises(StageError, match=r"0\.000 GB are to come"):
            fetch_all([RemoteFile("a", f"{address}/well/a")], Path("out"), QUICK)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 350_000))
        assert fetch_all([RemoteFile("a", f"{address}/well/a")], Path("out"), QUICK) == {"a": None}


def test_the_ledger_on_another_disk(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second disk")
    state_dir = other / f"vatt_test_{os.getpid()}"
    try:
        with serve() as (address, _):
            files = [RemoteFile(name, f"{address}/{name}") for name in NAMES[:3]]
            found = fetch_all(files, tmp_path / "out", QUICK, state_dir)
        assert found == dict.fromkeys(NAMES[:3])
        for name in NAMES[:3]:
            assert (tmp_path / "out" / name).read_bytes() == content_of(f"/{name}")
        assert not list(state_dir.rglob("*.partial"))
    finally:
        shutil.rmtree(state_dir)
