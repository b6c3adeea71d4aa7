"""`dvc repro` with `launch` changed to two nodes: the same model, whatever befalls a rank."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stages.test_pretrain_nodes import (
    SUPERVISION,
    curve,
    cut_a_link,
    expect_none_left,
    kill_a_rank,
    stop_a_rank,
    wait_for,
    wait_for_step,
)
from tests.stages.test_pretrain_processes import PATIENCE_S
from tests.test_whole_pipeline import create_copy, shrink
from tests.train.launchers.cluster import Cluster, open_cluster
from vatt import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NUM_STEPS = 24
WEIGHTS = Path("data/pretrain/model.safetensors")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with open_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


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


def change_params(root: Path, section: str, updates: dict[str, Any]) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params[section] |= updates
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def start_dvc(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (root / "errors").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", *arguments],
            cwd=root,
            env=os.environ | {"PATH": path},
            stderr=errors,
            text=True,
        )


@pytest.mark.parametrize("harm", [None, kill_a_rank, stop_a_rank, cut_a_link])
def test_dvc_trains_on_two_nodes(
    trained_here: Path,
    cluster: Cluster,
    harm: Callable[[Cluster], None] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model is that of two processes on one machine, bit for bit while there are two ranks."""
    monkeypatch.chdir(trained_here)
    shutil.rmtree(".cache/pretrain")
    Path("metrics/pretrain_curve.jsonl").unlink()
    Path("hostfile").write_text("first slots=1\nsecond slots=1\n")
    ssh = {"hostfile": "hostfile", "config": str(cluster.config)}
    launch = {"launcher": "ssh", "ssh": ssh, "supervision": SUPERVISION}
    change_params(trained_here, "launch", launch)
    process = start_dvc(trained_here, *(["--force"] if harm else []), "--single-item", "pretrain")
    try:
        if harm is not None:
            wait_for_step(process, 8)
            harm(cluster)
            wait_for(process, "restart 1 of 2")
        assert process.wait(3 * PATIENCE_S) == 0, Path("errors").read_text()
        assert [row["step"] for row in curve()] == list(range(1, NUM_STEPS + 1))
        load("data/pretrain")
        if harm is not cut_a_link:
            assert WEIGHTS.read_bytes() == Path("here", WEIGHTS.name).read_bytes()
    finally:
        cluster.mend("second")
        process.kill()
        expect_none_left()
