"""The stage as a job of a real Slurm on this machine: it trains, restarts, and is cancelled."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.slurm_cluster import open_slurm
from tests.stages.test_pretrain_nodes import (
    NUM_STEPS,
    SUPERVISION,
    curve,
    expect_none_left,
    processes,
    rank_of,
    wait_for,
    wait_for_step,
)
from tests.stages.test_pretrain_processes import PATIENCE_S, start
from vatt import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        pytest.MonkeyPatch.context() as patch,
        open_slurm(tmp_path_factory.mktemp("slurm"), patch),
    ):
        yield


def start_in_slurm(num_steps: int, **slurm: object) -> "subprocess.Popen[str]":
    sections = {"num_nodes": 1, "time_limit": "0:20:00", **slurm}
    launch = {"launcher": "slurm", "slurm": sections, "supervision": SUPERVISION}
    with Path("errors").open("w") as errors:
        return start(num_steps, launch=launch, errors=errors)


def test_a_job_trains_and_restarts(project: Path, slurm: None) -> None:
    process = start_in_slurm(NUM_STEPS)
    wait_for_step(process, 8)
    rank_of(1).kill()
    wait_for(process, "restart 1 of 2")  # the job's output is shown
    assert process.wait(PATIENCE_S) == 0, Path("errors").read_text()
    assert [row["step"] for row in curve()] == list(range(1, NUM_STEPS + 1))
    load("data/pretrain")
    expect_none_left()


def test_a_cancelled_stage_cancels_its_job(project: Path, slurm: None) -> None:
    process = start_in_slurm(100_000)
    wait_for_step(process, 2)
    assert processes()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    expect_none_left()
    squeue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert squeue.stdout == ""


def test_a_refused_job_is_told(project: Path, slurm: None) -> None:
    process = start_in_slurm(NUM_STEPS, partition="no_such")
    assert process.wait(PATIENCE_S) == 1
    assert "invalid partition specified: no_such" in Path("errors").read_text()
