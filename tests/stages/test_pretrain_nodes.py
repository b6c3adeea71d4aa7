"""The stage on two nodes reached by ssh: whatever befalls one of them, training ends well or clearly."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from tests.launch.cluster import Cluster, open_cluster
from tests.stages.test_pretrain_processes import PATIENCE_S, start
from vatt import load

NUM_STEPS = 30
LONG_STEPS = 60
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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with open_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def start_on(
    cluster: Cluster,
    num_steps: int = NUM_STEPS,
    supervision: Mapping[str, float] = SUPERVISION,
) -> "subprocess.Popen[str]":
    """Start the stage on both nodes, its errors in the file `errors`."""
    Path("hostfile").write_text("first slots=1\nsecond slots=1  # the same\n")
    ssh = {"hostfile": "hostfile", "config": str(cluster.config)}
    launch = {"launcher": "ssh", "ssh": ssh, "supervision": supervision}
    with Path("errors").open("w") as errors:
        return start(num_steps, launch=launch, errors=errors)


def wait_for(process: "subprocess.Popen[str]", text: str) -> float:
    """Return when `text` was seen in the errors of the stage."""
    deadline_s, path = time.monotonic() + PATIENCE_S, Path("errors")
    while text not in path.read_text():
        assert process.poll() is None or text in path.read_text(), path.read_text()
        assert time.monotonic() < deadline_s, path.read_text()
        time.sleep(0.1)
    return time.monotonic()


def wait_for_step(process: "subprocess.Popen[str]", step: int) -> None:
    path, deadline_s = Path("metrics/pretrain_curve.jsonl"), time.monotonic() + PATIENCE_S
    while not path.exists() or len(path.read_bytes().splitlines()) < step:
        assert process.poll() is None, Path("errors").read_text()
        assert time.monotonic() < deadline_s, Path("errors").read_text()
        time.sleep(0.05)


def wait_for_file(process: "subprocess.Popen[str]", pattern: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not list(Path().glob(pattern)):
        assert process.poll() is None, Path("errors").read_text()
        assert time.monotonic() < deadline_s, Path("errors").read_text()
        time.sleep(0.01)


def processes() -> list[psutil.Process]:
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


def rank_of(number: int) -> psutil.Process:
    """Return the process of a rank; its loader workers look alike but have another parent."""
    for process in processes():
        is_rank = process.environ().get("RANK") == str(number)
        if is_rank and "vatt.launch.agent" in process.parent().cmdline():
            return process
    raise LookupError(number)


def expect_none_left(within_s: float = 2 * LINK_S + SLACK_S) -> None:
    deadline_s = time.monotonic() + within_s
    while left := processes():
        assert time.monotonic() < deadline_s, [process.cmdline() for process in left]
        time.sleep(0.2)


def curve() -> list[dict[str, float]]:
    lines = Path("metrics/pretrain_curve.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def expect_same_losses(rows: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    for row, other in zip(rows, others, strict=True):
        for name in ("step", "loss", "loss_va", "loss_vt"):
            assert row[name] == pytest.approx(other[name], rel=1e-4), row["step"]


def expect_finished(process: "subprocess.Popen[str]", num_steps: int = NUM_STEPS) -> None:
    assert process.wait(PATIENCE_S) == 0, Path("errors").read_text()
    assert [row["step"] for row in curve()] == list(range(1, num_steps + 1))
    load("data/pretrain")
    expect_none_left()


def kill_a_rank(cluster: Cluster) -> None:
    rank_of(1).kill()


def stop_a_rank(cluster: Cluster) -> None:
    rank_of(1).suspend()


def cut_a_link(cluster: Cluster) -> None:
    cluster.cut("second")


def kill_an_agent(cluster: Cluster) -> None:
    torchrun = rank_of(1).parent()
    assert torchrun is not None
    agent = torchrun.parent()
    assert agent is not None
    agent.kill()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("harm", "message", "within_s"),
    [
        (kill_a_rank, "rank 1 died: Signal 9 (SIGKILL)", SLACK_S),
        pytest.param(stop_a_rank, "process stopped", STEP_S + SLACK_S, marks=pytest.mark.slow),
        pytest.param(
            cut_a_link,
            "second: the node is lost: silent",
            2 * LINK_S + SLACK_S,
            marks=pytest.mark.slow,
        ),
        pytest.param(kill_an_agent, "the node is lost", LINK_S + SLACK_S, marks=pytest.mark.slow),
    ],
)
def test_training_ends_well(
    project: Path,
    cluster: Cluster,
    harm: Callable[[Cluster], None],
    message: str,
    within_s: float,
) -> None:
    limits = PATIENT if harm is kill_a_rank else SUPERVISION
    process = start_on(cluster, supervision=limits)
    try:
        wait_for_step(process, 8)
        before = curve()[:7]
        harmed_s = time.monotonic()
        harm(cluster)
        seen_s = wait_for(process, "restart 1 of 2")
        print(f"{harm.__name__}: ended and seen after {seen_s - harmed_s:.1f} s")
        assert message in Path("errors").read_text()
        assert seen_s - harmed_s < within_s
        expect_finished(process)
        expect_same_losses(curve()[:7], before)  # steps 6 and 7 twice
    finally:
        cluster.mend("second")
        process.kill()
        expect_none_left()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_then_one_then_two_again(project: Path, cluster: Cluster) -> None:
    """A link is cut and mended, then a rank is killed: the losses are those of a run without harm."""
    expect_finished(start_on(cluster, LONG_STEPS), LONG_STEPS)
    unharmed = curve()
    shutil.rmtree(".cache/pretrain")
    process = start_on(cluster, LONG_STEPS)
    try:
        wait_for_step(process, 6)
        cluster.cut("second")
        wait_for(process, "training goes on without second")
        cluster.mend("second")
        # From here on, steps 6 to 10 are those of one rank.
        wait_for_file(process, ".cache/pretrain/*/step-00000010/complete.json")
        rank_of(0).kill()
        wait_for(process, "restart 2 of 2")
        wait_for_file(process, ".cache/pretrain/*/step-00000030/complete.json")
        assert rank_of(0).environ()["WORLD_SIZE"] == "2"
        expect_finished(process, LONG_STEPS)
        assert "rank 0 died: Signal 9" in Path("errors").read_text()
        # Rounding grows from step to step: 4e-6 after 20 steps, 1.3e-4 after 50.
        expect_same_losses(curve()[:20], unharmed[:20])
    finally:
        cluster.mend("second")
        process.kill()
        expect_none_left()


@pytest.mark.slow
def test_an_unreachable_node_is_named(project: Path, cluster: Cluster) -> None:
    cluster.cut("second")
    try:
        process = start_on(cluster)
        assert process.wait(PATIENCE_S) == 1
        errors = Path("errors").read_text()
        assert "launch.launcher = ssh: second: ssh: connect to host" in errors
        expect_none_left()
    finally:
        cluster.mend("second")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_cancelled_stage_leaves_no_process_on_any_node(
    project: Path, cluster: Cluster, number: signal.Signals
) -> None:
    process = start_on(cluster, num_steps=100_000)
    wait_for_step(process, 2)
    assert {rank_of(0), rank_of(1)} <= set(processes())
    process.send_signal(number)
    process.wait(SLACK_S)
    expect_none_left(SLACK_S)
