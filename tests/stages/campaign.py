"""What campaigns share: they start pre-training as a user does, and harm it on its way."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.launch.cluster import Cluster
from tests.stages.conftest import EXPORTED, ROOT
from tests.train.corpus import PRETRAIN
from vatt import load

CURVE, ERRORS = Path("metrics/pretrain_curve.jsonl"), Path("errors")
RUNS_DIR = Path(".cache/pretrain")
PATIENCE_S = 200
NUM_STEPS = 30
HOSTS = "first slots=1\nsecond slots=1  # the same\n"
LINK_S, STEP_S = 6.0, 12.0
SUPERVISION = {
    "max_restarts": 2,
    "start_timeout_s": 200.0,
    "step_timeout_s": STEP_S,
    "link_timeout_s": LINK_S,
}
PATIENT = SUPERVISION | {"step_timeout_s": 120.0, "link_timeout_s": 60.0}
"""For faults that are seen at once: a busy machine is not to be taken for another fault."""
SLACK_S = 60.0  # to look twice, to settle and to print, on a busy machine
Process = subprocess.Popen[str]


def start(num_steps: int = NUM_STEPS, **launch: Any) -> Process:
    """Start `python -m vatt pretrain` in the current folder, on two ranks, without restarts.

    Its errors go to the file `errors`.
    """
    CURVE.unlink(missing_ok=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["clip"] |= EXPORTED.clip.model_dump(mode="json")
    params["model"] = EXPORTED.model.model_dump(mode="json")
    updates: dict[str, float] = {"num_steps": num_steps, "warmup_steps": 1}
    updates |= {"batch_size": 4, "log_every_steps": 1}
    # From step to step rounding grows with the learning rate: over 20 steps, one rank and two are
    # 5e-4 apart at 1e-4, and 4e-6 at 1e-5. The losses are far from those without training in both.
    updates["learning_rate"] = 1e-5
    params["pretrain"] = PRETRAIN.model_copy(update=updates).model_dump(mode="json")
    params["launch"] |= {"num_processes": 2, "threads_per_process": 1, "loader_workers": 1}
    params["launch"]["supervision"]["max_restarts"] = 0
    params["launch"] |= launch
    Path("params.yaml").write_text(yaml.safe_dump(params))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vatt", "pretrain"]
    with ERRORS.open("w") as errors:
        return subprocess.Popen(command, env=environment, stderr=errors, text=True)


def reach_by_ssh(cluster: Cluster, hosts: str = HOSTS) -> dict[str, Any]:
    """Write a hostfile; return the keys of `launch` that start ranks on its nodes."""
    Path("hostfile").write_text(hosts)
    ssh = {"hostfile": "hostfile", "config": str(cluster.config)}
    return {"launcher": "ssh", "ssh": ssh, "supervision": SUPERVISION}


@contextmanager
def watched(process: Process, cluster: Cluster) -> Iterator[None]:
    """Mend the cluster in the end, and expect no process, however the block ends."""
    try:
        yield
    finally:
        cluster.mend("second")
        process.kill()
        expect_none_left()


def wait_until(process: Process, is_so: Callable[[], object]) -> float:
    """Return when something was seen, while the stage was running."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert process.poll() is None or is_so(), ERRORS.read_text()
        assert time.monotonic() < deadline_s, ERRORS.read_text()
        time.sleep(0.02)
    return time.monotonic()


def wait_for(process: Process, text: str) -> float:
    """Return when `text` was seen in the errors of the stage."""
    return wait_until(process, lambda: text in ERRORS.read_text())


def wait_for_step(process: Process, step: int) -> None:
    wait_until(process, lambda: CURVE.exists() and len(read_curve()) >= step)


def wait_for_checkpoint(process: Process, step: int) -> None:
    wait_until(process, lambda: list(RUNS_DIR.glob(f"*/step-{step:08}/complete.json")))


def read_curve() -> list[dict[str, float]]:
    """Return the rows of the curve; the last one may be on its way."""
    lines = CURVE.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def list_processes() -> list[psutil.Process]:
    """Return all processes of this project, on any node."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.cwd() == str(Path.cwd()) and "vatt" in " ".join(process.cmdline())
        except psutil.Error:
            continue
        if is_ours and process.pid != os.getpid():
            found.append(process)
    return found


def find_rank(number: int) -> psutil.Process:
    """Return the process of a rank; its loader workers look alike but have another parent."""
    for process in list_processes():
        is_rank = process.environ().get("RANK") == str(number)
        if is_rank and "vatt.launch.agent" in process.parent().cmdline():
            return process
    raise LookupError(number)


def expect_none_left(within_s: float = 2 * LINK_S + SLACK_S) -> None:
    deadline_s = time.monotonic() + within_s
    while left := list_processes():
        assert time.monotonic() < deadline_s, [process.cmdline() for process in left]
        time.sleep(0.2)


def expect_finished(
    process: Process, num_steps: int = NUM_STEPS, within_s: float = PATIENCE_S
) -> None:
    assert process.wait(within_s) == 0, ERRORS.read_text()
    assert [row["step"] for row in read_curve()] == list(range(1, num_steps + 1))
    load("data/pretrain")
    expect_none_left()


def expect_same_losses(rows: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    for row, other in zip(rows, others, strict=True):
        for name in ("step", "loss", "loss_va", "loss_vt"):
            assert row[name] == pytest.approx(other[name], rel=1e-4), row["step"]


def harm(cluster: Cluster, how: str) -> None:
    """Harm a node or the rank on it; `how` begins with a verb."""
    if how == "cut a link":
        cluster.cut("second")
    elif how == "kill an agent":
        find_rank(1).parents()[1].kill()  # the parent of torchrun
    else:
        {"kill a rank": find_rank(1).kill, "stop a rank": find_rank(1).suspend}[how]()
