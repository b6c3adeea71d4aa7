"""`dvc repro` with `launch` changed to two nodes: the same model, whatever befalls a rank."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.cluster import Cluster, open_cluster
from tests.orchestration.miniature import DVC
from tests.stages.campaign import (
    HOSTS,
    PATIENCE_S,
    PATIENT,
    SUPERVISION,
    cut_a_link,
    expect_none_left,
    kill_a_rank,
    read_curve,
    read_errors,
    stop_a_rank,
    wait_for,
    wait_for_step,
)
from tests.test_whole_pipeline import create_copy, shrink
from vatt import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NUM_STEPS = 24
RUNS_DIR = Path(".cache/pretrain")
FILLER = RUNS_DIR / "filler"
WEIGHTS = Path("data/pretrain/model.safetensors")
Harm = Callable[[Cluster], None]


@pytest.fixture(scope="module")
def trained_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a small demo, pre-trained by two processes on this machine."""
    root = create_copy(tmp_path_factory.mktemp("dvc") / "project")
    shrink(root)
    updates = {"num_steps": NUM_STEPS, "checkpoint_every_steps": 5, "log_every_steps": 1}
    change_params(root, "pretrain", updates)
    change_params(root, "launch", {"num_processes": 2, "threads_per_process": 1})
    assert start_dvc(root, "pretrain").wait() == 0, (root / "errors").read_text()
    shutil.copytree(root / "data/pretrain", root / "here")
    return root


@pytest.fixture(scope="module")
def cluster(trained_here: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes; where that is allowed, the checkpoints are on a small disk of their own, to fill.

    Nodes see the disks that were there before them.
    """
    checkpoints = trained_here / RUNS_DIR
    shutil.rmtree(checkpoints)
    checkpoints.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m", "none", str(checkpoints)]
    is_mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        with open_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
            yield cluster
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(checkpoints)], check=True)


def change_params(root: Path, section: str, updates: dict[str, Any]) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params[section] |= updates
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def start_dvc(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (root / "errors").open("w") as errors:
        return subprocess.Popen(
            [DVC, "repro", *arguments],
            cwd=root,
            env=os.environ | {"PATH": path},
            stderr=errors,
            text=True,
        )


def start_on(root: Path, cluster: Cluster, harm: Harm | None) -> "subprocess.Popen[str]":
    """Start without checkpoints; faults that are seen by waiting have short time limits."""
    for path in (root / RUNS_DIR).iterdir():
        shutil.rmtree(path)
    (root / "metrics/pretrain_curve.jsonl").unlink(missing_ok=True)
    (root / "hostfile").write_text(HOSTS)
    ssh = {"hostfile": "hostfile", "config": str(cluster.config)}
    supervision = SUPERVISION if harm in {stop_a_rank, cut_a_link} else PATIENT
    launch = {"launcher": "ssh", "ssh": ssh, "supervision": supervision}
    change_params(root, "launch", launch)
    return start_dvc(root, *(["--force"] if harm else []), "--single-item", "pretrain")


def expect_finished(process: "subprocess.Popen[str]") -> None:
    assert process.wait(3 * PATIENCE_S) == 0, read_errors()
    assert [row["step"] for row in read_curve()] == list(range(1, NUM_STEPS + 1))
    load("data/pretrain")


def expect_same_model() -> None:
    assert WEIGHTS.read_bytes() == Path("here", WEIGHTS.name).read_bytes()


@pytest.mark.parametrize("harm", [None, kill_a_rank, stop_a_rank, cut_a_link])
def test_dvc_trains_on_two_nodes(
    trained_here: Path, cluster: Cluster, harm: Harm | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is that of two processes on one machine, bit for bit while there are two ranks."""
    monkeypatch.chdir(trained_here)
    process = start_on(trained_here, cluster, harm)
    try:
        if harm is not None:
            wait_for_step(process, 8)
            harm(cluster)
            wait_for(process, "restart 1 of 2")
        expect_finished(process)
        if harm is not cut_a_link:
            expect_same_model()
    finally:
        cluster.mend("second")
        process.kill()
        expect_none_left()


def fill_the_disk(_: Cluster) -> None:
    with FILLER.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(2**20))


def test_a_full_disk_ends_dvc_clearly_and_it_goes_on_with_more_room(
    trained_here: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained_here)
    if not RUNS_DIR.is_mount():
        pytest.skip("disks cannot be mounted here")
    process = start_on(trained_here, cluster, fill_the_disk)
    try:
        wait_for_step(process, 8)
        before = read_curve()[:5]
        fill_the_disk(cluster)
        assert process.wait(PATIENCE_S) != 0
        errors = read_errors()
        assert f"pretrain: {socket.gethostname()}: " in errors
        assert "No space left on device" in errors
        assert "restart" not in errors
        expect_none_left()
        assert list(RUNS_DIR.glob("*/step-00000005/complete.json"))
        FILLER.unlink()
        process = start_dvc(trained_here, "--force", "--single-item", "pretrain")
        expect_finished(process)
        assert read_curve()[:5] == before
        expect_same_model()
    finally:
        FILLER.unlink(missing_ok=True)
        process.kill()
        expect_none_left()
