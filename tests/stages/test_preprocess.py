"""The preprocess stage as a process: killed at any moment, it runs again to the same bytes."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.known_corpus import write_downloads
from vatt.core.errors import StageError
from vatt.corpus.manifest import read_manifest, write_manifest
from vatt.params import load_params
from vatt.stages.preprocess import main

ROOT = Path(__file__).parents[2]
LOADED = load_params(ROOT / "params.yaml")
PARAMS, LAUNCH = LOADED.preprocess, LOADED.launch


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


def add_copies(download_dir: Path, num_copies: int) -> None:
    """Add rows that name the same files by other ids."""
    rows = read_manifest(download_dir)
    copies = [
        dataclasses.replace(row, video_id=f"{number}/{row.video_id}")
        for number in range(num_copies)
        for row in rows
    ]
    write_manifest(download_dir, [*rows, *copies])


def check_kills(workplace: Path, seed: int, num_kills: int) -> None:
    main(PARAMS, LAUNCH)
    undisturbed = read_tree(workplace / "data" / "preprocess")
    shutil.rmtree(workplace / "data" / "preprocess")
    shutil.rmtree(workplace / ".cache")
    arguments = ["-m", "tests.stages.killed_preprocess", str(seed), str(num_kills)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    printed = subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    counts = [int(line.split()[0]) for line in printed.splitlines()]
    assert len(counts) == num_kills
    assert counts == sorted(counts)
    assert read_tree(workplace / "data" / "preprocess") == undisturbed
    assert not list(workplace.glob("data/*.partial"))
    assert not (workplace / ".cache/preprocess/partial").exists()


def test_killed_runs_end_in_the_same_bytes(workplace: Path) -> None:
    check_kills(workplace, seed=1, num_kills=3)


@pytest.mark.slow
def test_many_killed_runs_end_in_the_same_bytes(workplace: Path) -> None:
    add_copies(workplace / "data" / "download", 3)
    check_kills(workplace, seed=2, num_kills=20)


def test_a_terminated_run_leaves_nothing_half_done(workplace: Path) -> None:
    process = start()
    while process.poll() is None and not list(workplace.glob(".cache/preprocess/fragments/*/*")):
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert not list((workplace / "data").glob("preprocess*"))
    assert not (workplace / ".cache/preprocess/partial").exists()


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
