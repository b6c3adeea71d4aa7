"""The script for sbatch, and what a controller of Slurm that is away does to a job: nothing."""

from pathlib import Path

import pytest

from tests.launch.fakes import install_fakes, read_asked
from tests.train.corpus import LAUNCH, build_job
from vatt.core.errors import StageError
from vatt.launch.slurm import build_script, run_in_slurm
from vatt.params import SlurmParams
from vatt.train.recipe import Job

AWAY = 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1'
FORGOTTEN = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vatt.launch.slurm.POLL_S", 0.0)
    return build_job(launcher="slurm")


def test_the_script_asks_for_what_params_say() -> None:
    slurm = SlurmParams(
        num_nodes=4, partition="gpu", gpus_per_node=8, cpus_per_node=64, options=("--account=me",)
    )
    launch = LAUNCH.model_copy(update={"slurm": slurm, "num_processes": 32})
    first, *lines, last = build_script(
        launch, Path("job.json"), Path("/runs/slurm.log")
    ).splitlines()
    assert first == "#!/bin/bash"
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    asked = {"--nodes=4", "--partition=gpu", "--gpus-per-node=8", "--cpus-per-task=64"}
    assert options >= asked | {"--account=me", "--ntasks-per-node=1", "--no-kill", "--requeue"}
    assert options >= {"--time=1-00:00:00", "--output=/runs/slurm.log"}
    assert last.endswith("-m vatt.launch.slurm job.json")


def test_a_job_goes_on_while_the_controller_is_away(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked 6 times; the weights are there when it says that the job has ended."""
    state = f"""case $N in
        1|2|4|5) {AWAY};;
        3) echo JobId=7 JobState=RUNNING;;
        6) echo done > {job.weights_path}; echo JobId=7 JobState=COMPLETED;;
        *) {FORGOTTEN};;
    esac"""
    install_fakes(tmp_path, monkeypatch, sbatch="echo 7", scontrol=state, scancel="")
    run_in_slurm(job)
    asked = read_asked(tmp_path)
    assert asked[0].startswith("sbatch")
    assert asked[1:] == ["scontrol --oneliner"] * 8  # and twice before it would be cancelled


def test_no_second_job_is_submitted_while_the_first_may_run(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fakes(tmp_path, monkeypatch, sbatch="echo 8", scontrol=AWAY, scancel="")
    monkeypatch.setattr("vatt.launch.cluster.PATIENCE_S", 0.0)
    job.directory.mkdir(parents=True)
    (job.directory / "slurm_job").write_text("7")
    with pytest.raises(StageError, match=r"show job 7: .*Unable to contact slurm controller"):
        run_in_slurm(job)
    assert read_asked(tmp_path) == ["scontrol --oneliner"]


def test_a_job_that_a_killed_launcher_left_is_cancelled_first(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm says that it ends, then knows it no more; of the next job it tells the state."""
    state = f"""case $4/$N in
        7/1) echo JobState=RUNNING;;
        7/2) echo JobState=COMPLETING;;
        8/*) echo JobState=FAILED;;
        *) {FORGOTTEN};;
    esac"""
    cancel = f"[ $N != 1 ] || {{ {AWAY}; }}"
    install_fakes(tmp_path, monkeypatch, sbatch="echo 8", scontrol=state, scancel=cancel)
    job.directory.mkdir(parents=True)
    (job.directory / "slurm_job").write_text("7")
    with pytest.raises(StageError, match="Slurm job 8 ended as FAILED: it wrote nothing"):
        run_in_slurm(job)
    asked = read_asked(tmp_path)
    assert [line.split()[0] for line in asked[:6]] == [
        *("scontrol", "scancel", "scancel", "scontrol", "scontrol", "sbatch")
    ]
    assert asked[1:3] == ["scancel 7", "scancel 7"]
