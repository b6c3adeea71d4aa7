"""The stage as a user runs it, on two processes: it finishes, or ends and leaves no process."""

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.stages.campaign import PATIENCE_S, read_curve, start, wait_for_step
from vatt import load

GRACE_S = 60


def ranks_of(stage: int) -> list[psutil.Process]:
    torchrun = psutil.Process(stage).children()[0].children()[0]
    return sorted(torchrun.children(), key=lambda process: process.environ()["RANK"])


def test_two_processes_finish_with_one_export(project: Path) -> None:
    process = start(num_steps=3)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    load("data/pretrain")
    assert [row["step"] for row in read_curve()] == [1, 2, 3]
    assert json.loads(Path("metrics/pretrain.json").read_text())["step"] == 3
    assert "waiting" in errors  # the progress bar


@pytest.mark.slow  # test_pretrain_nodes.py does it on two nodes
def test_training_goes_on_after_a_rank_is_killed(project: Path) -> None:
    process = start(num_steps=30, max_restarts=1)
    wait_for_step(process, 1)
    ranks_of(process.pid)[1].kill()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "rank 1 died: Signal 9 (SIGKILL)" in errors
    assert "restart 1 of 1" in errors
    assert [row["step"] for row in read_curve()] == list(range(1, 31))


@pytest.mark.parametrize(
    ("number", "returncode", "message"),
    [
        pytest.param(  # None: a rank is killed; test_pretrain_nodes.py does it on two nodes
            None, 1, "pretrain: rank 1 died: Signal 9 (SIGKILL)", marks=pytest.mark.slow
        ),
        (signal.SIGTERM, 128 + signal.SIGTERM, ""),
        pytest.param(signal.SIGINT, -signal.SIGINT, "", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, "", marks=pytest.mark.slow),
    ],
)
def test_no_process_is_left(
    project: Path, number: signal.Signals | None, returncode: int, message: str
) -> None:
    process = start(num_steps=100_000)
    wait_for_step(process, 1)
    processes = psutil.Process(process.pid).children(recursive=True)
    try:
        assert len(ranks_of(process.pid)) == 2
        if number is None:
            ranks_of(process.pid)[1].kill()
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=GRACE_S)
        _, left = psutil.wait_procs(processes, timeout=GRACE_S)
        assert not left
        assert process.returncode == returncode, errors
        assert message in errors
    finally:
        for child in (process, *(p for p in processes if p.is_running())):
            child.kill()
