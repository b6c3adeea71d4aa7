"""`dvc repro` with `launch` changed to two nodes: the same model, whatever befalls a rank."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.cluster import Cluster, open_cluster
from tests.orchestration.miniature import DVC
from tests.stages import campaign
from tests.stages.campaign import CURVE, ERRORS, PATIENCE_S, RUNS_DIR
from tests.test_whole_pipeline import create_copy, shrink

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NUM_STEPS = 24
FILLER = RUNS_DIR / "filler"
REPEAT = ("--force", "--single-item", "pretrain")


@pytest.fixture(scope="module")
def trained_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a small demo, pre-trained by two processes on this machine."""
    root = create_copy(tmp_path_factory.mktemp("dvc") / "project")
    shrink(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        updates = {"num_steps": NUM_STEPS, "checkpoint_every_steps": 5, "log_every_steps": 1}
        change_params("pretrain", updates)
        change_params("launch", {"num_processes": 2, "threads_per_process": 1})
        assert start_dvc("pretrain").wait() == 0, ERRORS.read_text()
        shutil.copytree("data/pretrain", "here")
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


@pytest.fixture(autouse=True)
def _here(trained_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained_here)


def change_params(section: str, updates: dict[str, Any]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params[section] |= updates
    Path("params.yaml").write_text(yaml.safe_dump(params))


def start_dvc(*arguments: str) -> campaign.Process:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with ERRORS.open("w") as errors:
        command = [DVC, "repro", *arguments]
        return subprocess.Popen(command, env=environment, stderr=errors, text=True)


def start_on(cluster: Cluster, harm: str | None) -> campaign.Process:
    """Start without checkpoints; faults that are seen by waiting have short time limits."""
    for path in RUNS_DIR.iterdir():
        shutil.rmtree(path)
    CURVE.unlink(missing_ok=True)
    launch = campaign.reach_by_ssh(cluster)
    if harm not in {"stop a rank", "cut a link"}:
        launch["supervision"] = campaign.PATIENT
    change_params("launch", launch)
    return start_dvc(*(REPEAT if harm else REPEAT[1:]))


def expect_same_model() -> None:
    trained, expected = (Path(name, "model.safetensors") for name in ("data/pretrain", "here"))
    assert trained.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("harm", [None, "kill a rank", "stop a rank", "cut a link"])
def test_dvc_trains_on_two_nodes(cluster: Cluster, harm: str | None) -> None:
    """The model is that of two processes on one machine, bit for bit while there are two ranks."""
    process = start_on(cluster, harm)
    with campaign.watched(process, cluster):
        if harm is not None:
            campaign.wait_for_step(process, 8)
            campaign.harm(cluster, harm)
            campaign.wait_for(process, "restart 1 of 2")
        campaign.expect_finished(process, NUM_STEPS, 3 * PATIENCE_S)
        if harm != "cut a link":
            expect_same_model()


def fill_the_disk() -> None:
    with FILLER.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(2**20))


def test_a_full_disk_ends_dvc_clearly_and_it_goes_on_with_more_room(cluster: Cluster) -> None:
    if not RUNS_DIR.is_mount():
        pytest.skip("disks cannot be mounted here")
    process = start_on(cluster, "fill the disk")
    try:
        campaign.wait_for_step(process, 8)
        before = campaign.read_curve()[:5]
        fill_the_disk()
        assert process.wait(PATIENCE_S) != 0
        errors = ERRORS.read_text()
        assert f"pretrain: {socket.gethostname()}: " in errors
        assert "No space left on device" in errors
        assert "restart" not in errors
        campaign.expect_none_left()
        assert list(RUNS_DIR.glob("*/step-00000005/complete.json"))
        FILLER.unlink()
        process = start_dvc(*REPEAT)
        campaign.expect_finished(process, NUM_STEPS, 3 * PATIENCE_S)
        assert campaign.read_curve()[:5] == before
        expect_same_model()
    finally:
        FILLER.unlink(missing_ok=True)
        process.kill()
        campaign.expect_none_left()
