"""What campaigns share: they start pre-training as a user does, and harm it on its way."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import psutil
import pytest
import yaml

from tests.launch.cluster import Cluster
from tests.stages.conftest import EXPORTED
from tests.train.corpus import PRETRAIN
from vatt import load
from vatt.core.files import write_json

ROOT = Path(__file__).parents[2]
CURVE = Path("metrics/pretrain_curve.jsonl")
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


def pass_validation() -> None:
    """Leave what `validate` leaves when the corpus of the current folder passes."""
    content = Path("data/preprocess/index.parquet").read_bytes()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    write_json(Path("metrics/validate.json"), {"passed": True, "index_digest": digest})


def start(
    num_steps: int,
    max_restarts: int = 0,
    launch: Mapping[str, object] | None = None,
    errors: int | IO[str] = subprocess.PIPE,
) -> "subprocess.Popen[str]":
    """Start `python -m vatt pretrain` in the current folder, on two ranks."""
    pass_validation()
    CURVE.unlink(missing_ok=True)
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


def start_with(num_steps: int, **launch: object) -> "subprocess.Popen[str]":
    """Start the stage with keys of `launch`, its errors in the file `errors`."""
    with Path("errors").open("w") as errors:
        return start(num_steps, launch=launch, errors=errors)


def start_on(
    cluster: Cluster,
    num_steps: int = NUM_STEPS,
    supervision: Mapping[str, float] = SUPERVISION,
    hosts: str = HOSTS,
    port: int | None = None,
) -> "subprocess.Popen[str]":
    """Start the stage on both nodes, its errors in the file `errors`."""
    Path("hostfile").write_text(hosts)
    ssh = {"hostfile": "hostfile", "config": str(cluster.config)}
    return start_with(num_steps, launcher="ssh", ssh=ssh, supervision=supervision, port=port)


def wait_until(process: "subprocess.Popen[str]", is_so: Callable[[], object]) -> float:
    """Return when something was seen, while the stage was running."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert process.poll() is None or is_so(), read_errors(process)
        assert time.monotonic() < deadline_s, read_errors(process)
        time.sleep(0.02)
    return time.monotonic()


def read_errors(process: "subprocess.Popen[str] | None" = None) -> str:
    """Return what the stage wrote to standard error; where that is a pipe, it is killed first."""
    if process is not None and process.stderr is not None:
        process.kill()
        return process.communicate()[1]
    return Path("errors").read_text()


def wait_for(process: "subprocess.Popen[str]", text: str) -> float:
    """Return when `text` was seen in the errors of the stage."""
    return wait_until(process, lambda: text in read_errors())


def wait_for_step(process: "subprocess.Popen[str]", step: int) -> None:
    wait_until(process, lambda: CURVE.exists() and len(read_curve()) >= step)


def wait_for_file(process: "subprocess.Popen[str]", pattern: str) -> None:
    wait_until(process, lambda: list(Path().glob(pattern)))


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


def expect_finished(process: "subprocess.Popen[str]", num_steps: int = NUM_STEPS) -> None:
    assert process.wait(PATIENCE_S) == 0, read_errors(process)
    assert [row["step"] for row in read_curve()] == list(range(1, num_steps + 1))
    load("data/pretrain")
    expect_none_left()


def expect_same_losses(rows: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    for row, other in zip(rows, others, strict=True):
        for name in ("step", "loss", "loss_va", "loss_vt"):
            assert row[name] == pytest.approx(other[name], rel=1e-4), row["step"]


def kill_a_rank(_: Cluster) -> None:
    find_rank(1).kill()


def stop_a_rank(_: Cluster) -> None:
    find_rank(1).suspend()


def cut_a_link(cluster: Cluster) -> None:
    cluster.cut("second")


def kill_an_agent(_: Cluster) -> None:
    torchrun = find_rank(1).parent()
    assert torchrun is not None
    agent = torchrun.parent()
    assert agent is not None
    agent.kill()
