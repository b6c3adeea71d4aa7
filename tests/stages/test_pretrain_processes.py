"""The stage as a user runs it: on two processes, as a job of a real Slurm, on a full disk.

It finishes, or says why not and leaves no process.
"""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.launch.cluster import run
from tests.launch.slurm_cluster import open_slurm
from tests.stages import campaign
from tests.stages.campaign import ERRORS, PATIENCE_S, RUNS_DIR, SUPERVISION

GRACE_S = 60


def test_two_processes_finish_with_one_export(project: Path) -> None:
    campaign.expect_finished(campaign.start(3), 3)
    assert json.loads(Path("metrics/pretrain.json").read_text())["step"] == 3
    assert "waiting" in ERRORS.read_text()  # the progress bar


@pytest.mark.slow  # test_pretrain_nodes.py does it on two nodes
def test_training_goes_on_after_a_rank_is_killed(project: Path) -> None:
    process = campaign.start(supervision={"max_restarts": 1})
    campaign.wait_for_step(process, 1)
    campaign.find_rank(1).kill()
    campaign.expect_finished(process)
    assert "rank 1 died: Signal 9 (SIGKILL)" in ERRORS.read_text()
    assert "restart 1 of 1" in ERRORS.read_text()


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
    process = campaign.start(100_000)
    campaign.wait_for_step(process, 1)
    processes = psutil.Process(process.pid).children(recursive=True)
    try:
        assert {campaign.find_rank(0), campaign.find_rank(1)} <= set(processes)
        if number is None:
            campaign.find_rank(1).kill()
        else:
            process.send_signal(number)
        assert process.wait(GRACE_S) == returncode, ERRORS.read_text()
        _, left = psutil.wait_procs(processes, timeout=GRACE_S)
        assert not left
        assert message in ERRORS.read_text()
    finally:
        for child in (process, *(p for p in processes if p.is_running())):
            child.kill()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_full_disk_is_told_and_training_goes_on_with_more_room(project: Path) -> None:
    """There is room for one checkpoint (16 MB), but not for the next one beside it."""
    RUNS_DIR.mkdir(parents=True)
    try:
        run("mount", "-t", "tmpfs", "-o", "size=24m", "none", str(RUNS_DIR))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"disks cannot be mounted here: {error.stderr.strip()}")
    try:
        assert campaign.start().wait(PATIENCE_S) == 1
        errors = ERRORS.read_text()
        assert "No space left on device" in errors
        assert f"{socket.gethostname()}: a checkpoint could not be written: {RUNS_DIR}" in errors
        campaign.expect_none_left()
        (whole,) = RUNS_DIR.glob("*/step-*/complete.json")
        assert whole.parent.name == "step-00000005"
        before = campaign.read_curve()
        run("mount", "-o", "remount,size=1g", str(RUNS_DIR))
        campaign.expect_finished(campaign.start())
        assert campaign.read_curve()[:5] == before[:5]
    finally:
        run("umount", "--lazy", str(RUNS_DIR))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        pytest.MonkeyPatch.context() as patch,
        open_slurm(tmp_path_factory.mktemp("slurm"), patch),
    ):
        yield


def start_in_slurm(num_steps: int, **slurm: object) -> campaign.Process:
    section = {"num_nodes": 1, "time_limit": "0:20:00", **slurm}
    return campaign.start(num_steps, launcher="slurm", slurm=section, supervision=SUPERVISION)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_of_slurm_trains_and_restarts(project: Path, slurm: None) -> None:
    process = start_in_slurm(30)
    campaign.wait_for_step(process, 8)
    campaign.find_rank(1).kill()
    campaign.wait_for(process, "restart 1 of 2")  # the job's output is shown
    campaign.expect_finished(process)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cancelled_stage_cancels_its_job_of_slurm(project: Path, slurm: None) -> None:
    process = start_in_slurm(100_000)
    campaign.wait_for_step(process, 2)
    assert campaign.list_processes()
    process.send_signal(signal.SIGTERM)
    assert process.wait(GRACE_S) == 128 + signal.SIGTERM
    campaign.expect_none_left()
    squeue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert squeue.stdout == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_slurm_refuses_is_said(project: Path, slurm: None) -> None:
    assert start_in_slurm(30, partition="no_such").wait(PATIENCE_S) == 1
    assert "invalid partition specified: no_such" in ERRORS.read_text()
