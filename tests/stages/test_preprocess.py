"""The preprocess stage as a process: killed at any moment, it runs again to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.data.conftest import write_downloads
from vatt.params import StageError, load_params
from vatt.stages.preprocess import main

ROOT = Path(__file__).parents[2]
PARAMS, LAUNCH = (load_params(ROOT / "params.yaml").section(name) for name in ("preprocess", "launch"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    write_downloads(tmp_path / "data" / "download")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vatt", "preprocess"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_when(process: subprocess.Popen[bytes], path: Path, delay_s: float) -> None:
    """Kill a process, but none of its workers, a while after a path appeared."""
    while process.poll() is None and not path.exists():
        time.sleep(0.005)
    time.sleep(delay_s)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def check_kills(workplace: Path, delays_s: list[float]) -> None:
    for delay_s in delays_s:
        kill_when(start(), workplace / "data" / "preprocess.partial" / "shards", delay_s)
        assert not (workplace / "data" / "preprocess").exists()
    assert start().wait() == 0
    again = read_tree(workplace / "data" / "preprocess")
    assert not list(workplace.glob("data/*.partial"))
    main(PARAMS, LAUNCH)
    assert again == read_tree(workplace / "data" / "preprocess")


def test_a_killed_run_can_be_repeated(workplace: Path) -> None:
    check_kills(workplace, [0.0])


@pytest.mark.slow
def test_many_killed_runs_can_be_repeated(workplace: Path) -> None:
    check_kills(workplace, [0.0, 0.1, 0.3, 0.6, 0.8, 1.0, 1.2])


def test_a_full_disk_stops_the_stage_and_says_so(workplace: Path) -> None:
    limited = ["bash", "-c", 'ulimit -f 100; exec "$0" -m vatt preprocess', sys.executable]
    finished = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "preprocess: " in finished.stderr
    assert "File too large" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (workplace / "data" / "preprocess").exists()


def test_without_a_manifest_the_stage_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="run `python -m vatt download` first"):
        main(PARAMS, LAUNCH)
    assert not (tmp_path / "data" / "preprocess").exists()
