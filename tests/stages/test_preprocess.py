"""The preprocess stage as a process: killed at any moment, it runs again to the same bytes."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.download.made_files import read_tree
from tests.known_corpus import write_downloads
from tests.stages.conftest import ROOT, run_module
from vatt.core.errors import StageError
from vatt.corpus.manifest import read_manifest, write_manifest
from vatt.params import load_params
from vatt.stages.preprocess import main

LOADED = load_params(ROOT / "params.yaml")
IN_DIR, OUT_DIR = Path("data/download"), Path("data/preprocess")


@pytest.fixture
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", ".")
    write_downloads(IN_DIR)


@pytest.mark.usefixtures("_workplace")
@pytest.mark.parametrize(
    ("seed", "num_kills", "num_copies"),
    [(1, 3, 0), pytest.param(2, 20, 3, marks=pytest.mark.slow)],
)
def test_killed_runs_end_in_the_same_bytes(seed: int, num_kills: int, num_copies: int) -> None:
    """Copies are rows that name the same files by other ids."""
    rows = read_manifest(IN_DIR)
    copies = [
        dataclasses.replace(row, video_id=f"{number}/{row.video_id}")
        for number in range(num_copies)
        for row in rows
    ]
    write_manifest(IN_DIR, [*rows, *copies])
    main(LOADED.preprocess, LOADED.launch)
    undisturbed = read_tree(OUT_DIR)
    shutil.rmtree(OUT_DIR)
    shutil.rmtree(".cache")
    printed = run_module("tests.stages.killed_preprocess", str(seed), str(num_kills)).stdout
    counts = [int(line) for line in printed.splitlines()]
    assert len(counts) == num_kills
    assert counts == sorted(counts)
    assert read_tree(OUT_DIR) == undisturbed
    assert not list(Path("data").glob("*.partial"))
    assert not Path(".cache/preprocess/partial").exists()


@pytest.mark.usefixtures("_workplace")
def test_a_terminated_run_leaves_nothing_half_done() -> None:
    command = [sys.executable, "-m", "vatt", "preprocess"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    while process.poll() is None and not list(Path(".cache/preprocess").glob("fragments/*/*")):
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert not list(Path("data").glob("preprocess*"))
    assert not Path(".cache/preprocess/partial").exists()


@pytest.mark.usefixtures("_workplace")
def test_a_full_disk_stops_the_stage_and_says_so() -> None:
    limited = ["bash", "-c", 'ulimit -f 100; exec "$0" -m vatt preprocess', sys.executable]
    finished = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "preprocess: " in finished.stderr
    assert "File too large" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not OUT_DIR.exists()


def test_without_a_manifest_the_stage_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="run `python -m vatt download` first"):
        main(LOADED.preprocess, LOADED.launch)
    assert not OUT_DIR.exists()
