"""The stage as a job of a real Slurm on this machine: it trains, restarts, and is cancelled."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.slurm_cluster import open_slurm
from tests.stages.campaign import (
    NUM_STEPS,
    PATIENCE_S,
    SUPERVISION,
    expect_finished,
    expect_none_left,
    find_rank,
    list_processes,
    read_errors,
    start_with,
    wait_for,
    wait_for_step,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        pytest.MonkeyPatch.context() as patch,
        open_slurm(tmp_path_factory.mktemp("slurm"), patch),
    ):
        yield


def start_in_slurm(num_steps: int, **slurm: object) -> "subprocess.Popen[str]":
    section = {"num_nodes": 1, "time_limit": "0:20:00", **slurm}
    return start_with(num_steps, launcher="slurm", slurm=section, supervision=SUPERVISION)


def test_a_job_trains_and_restarts(project: Path, slurm: None) -> None:
    process = start_in_slurm(NUM_STEPS)
    wait_for_step(process, 8)
    find_rank(1).kill()
    wait_for(process, "restart 1 of 2")  # the job's output is shown
    expect_finished(process)


def test_a_cancelled_stage_cancels_its_job(project: Path, slurm: None) -> None:
    process = start_in_slurm(100_000)
    wait_for_step(process, 2)
    assert list_processes()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    expect_none_left()
    squeue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert squeue.stdout == ""


def test_a_refused_job_is_told(project: Path, slurm: None) -> None:
    process = start_in_slurm(NUM_STEPS, partition="no_such")
    assert process.wait(PATIENCE_S) == 1
    assert "invalid partition specified: no_such" in read_errors()
