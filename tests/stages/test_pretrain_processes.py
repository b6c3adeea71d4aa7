"""The stage as a user runs it, on two processes: it finishes, or ends and leaves no process."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import psutil
import pytest
import yaml

from tests.stages.conftest import EXPORTED
from tests.train.corpus import PRETRAIN
from vatt import load
from vatt.core.files import write_json

ROOT = Path(__file__).parents[2]
PATIENCE_S = 200
GRACE_S = 60


def start(
    num_steps: int,
    max_restarts: int = 0,
    launch: Mapping[str, object] | None = None,
    errors: int | IO[str] = subprocess.PIPE,
) -> "subprocess.Popen[str]":
    """Start `python -m vatt pretrain` in the current folder."""
    content = Path("data/preprocess/index.parquet").read_bytes()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    write_json(Path("metrics/validate.json"), {"passed": True, "index_digest": digest})
    Path("metrics/pretrain_curve.jsonl").unlink(missing_ok=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["clip"] |= EXPORTED.clip.model_dump(mode="json")
    # What DropToken draws is another thing on another number of ranks.
    params["model"] = EXPORTED.model.model_dump(mode="json") | {"drop_token_rate": 0.0}
    updates: dict[str, float] = {"num_steps": num_steps, "warmup_steps": 1}
    updates |= {"batch_size": 4, "log_every_steps": 1}
    # From step to step rounding grows with the learning rate: over 20 steps, one rank and two are
    # 5e-4 apart at 1e-4, and 4e-6 at 1e-5. The losses are far from those without training in both.
    updates["learning_rate"] = 1e-5
    params["pretrain"] = PRETRAIN.model_copy(update=updates).model_dump(mode="json")
    params["launch"] |= {"num_processes": 2, "threads_per_process": 1, "loader_workers": 1}
    params["launch"]["supervision"]["max_restarts"] = max_restarts
    params["launch"] |= launch or {}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    command = [sys.executable, "-m", "vatt", "pretrain"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=errors, text=True)


def wait_until_it_trains(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Return all processes below the stage once the first step is done."""
    curve_path, deadline_s = Path("metrics/pretrain_curve.jsonl"), time.monotonic() + PATIENCE_S
    while not (curve_path.exists() and curve_path.stat().st_size):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    children: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return children


def ranks_of(stage: int) -> list[psutil.Process]:
    torchrun = psutil.Process(stage).children()[0].children()[0]
    return sorted(torchrun.children(), key=lambda process: process.environ()["RANK"])


def test_two_processes_finish_with_one_export(project: Path) -> None:
    process = start(num_steps=3)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    load("data/pretrain")
    rows = Path("metrics/pretrain_curve.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]
    assert json.loads(Path("metrics/pretrain.json").read_text())["step"] == 3
    assert "waiting" in errors  # the progress bar


@pytest.mark.slow  # test_pretrain_nodes.py does it on two nodes
def test_training_goes_on_after_a_rank_is_killed(project: Path) -> None:
    process = start(num_steps=30, max_restarts=1)
    wait_until_it_trains(process)
    kill_a_rank(process.pid)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "rank 1 died: Signal 9 (SIGKILL)" in errors
    assert "restart 1 of 1" in errors
    rows = Path("metrics/pretrain_curve.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, 31))


def kill_a_rank(stage: int) -> None:
    ranks_of(stage)[1].kill()


def terminate_the_stage(stage: int) -> None:
    os.kill(stage, signal.SIGTERM)


def interrupt_the_stage(stage: int) -> None:
    os.kill(stage, signal.SIGINT)


def kill_the_stage(stage: int) -> None:
    os.kill(stage, signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "returncode", "message"),
    [
        pytest.param(  # test_pretrain_nodes.py does it on two nodes
            kill_a_rank, 1, "pretrain: rank 1 died: Signal 9 (SIGKILL)", marks=pytest.mark.slow
        ),
        (terminate_the_stage, 128 + signal.SIGTERM, ""),
        pytest.param(interrupt_the_stage, -signal.SIGINT, "", marks=pytest.mark.slow),
        pytest.param(kill_the_stage, -signal.SIGKILL, "", marks=pytest.mark.slow),
    ],
)
def test_no_process_is_left(
    project: Path,
    end: Callable[[int], None],
    returncode: int,
    message: str,
) -> None:
    process = start(num_steps=100_000)
    processes = wait_until_it_trains(process)
    try:
        assert len(ranks_of(process.pid)) == 2
        end(process.pid)
        _, errors = process.communicate(timeout=GRACE_S)
        _, left = psutil.wait_procs(processes, timeout=GRACE_S)
        assert not left
        assert process.returncode == returncode, errors
        assert message in errors
    finally:
        for child in (process, *(p for p in processes if p.is_running())):
            child.kill()
