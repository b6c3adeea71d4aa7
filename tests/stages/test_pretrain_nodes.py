"""The stage on two nodes reached by ssh: whatever befalls one of them, it ends well or clearly."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launch.cluster import Cluster, open_cluster
from tests.stages.campaign import (
    LINK_S,
    PATIENCE_S,
    PATIENT,
    SLACK_S,
    STEP_S,
    SUPERVISION,
    cut_a_link,
    expect_finished,
    expect_none_left,
    expect_same_losses,
    find_rank,
    kill_a_rank,
    kill_an_agent,
    list_processes,
    read_curve,
    read_errors,
    start_on,
    stop_a_rank,
    wait_for,
    wait_for_file,
    wait_for_step,
)

LONG_STEPS = 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with open_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


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
        before = read_curve()[:7]
        harmed_s = time.monotonic()
        harm(cluster)
        seen_s = wait_for(process, "restart 1 of 2")
        print(f"{harm.__name__}: ended and seen after {seen_s - harmed_s:.1f} s")
        assert message in read_errors()
        assert seen_s - harmed_s < within_s
        expect_finished(process)
        expect_same_losses(read_curve()[:7], before)  # steps 6 and 7 twice
    finally:
        cluster.mend("second")
        process.kill()
        expect_none_left()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_then_one_then_two_again(project: Path, cluster: Cluster) -> None:
    """A link is cut and mended, then a rank is killed: the losses are as without harm."""
    expect_finished(start_on(cluster, LONG_STEPS), LONG_STEPS)
    unharmed = read_curve()
    shutil.rmtree(".cache/pretrain")
    process = start_on(cluster, LONG_STEPS)
    try:
        wait_for_step(process, 6)
        cluster.cut("second")
        wait_for(process, "training goes on without second")
        cluster.mend("second")
        # From here on, steps 6 to 10 are those of one rank.
        wait_for_file(process, ".cache/pretrain/*/step-00000010/complete.json")
        find_rank(0).kill()
        wait_for(process, "restart 2 of 2")
        wait_for_file(process, ".cache/pretrain/*/step-00000030/complete.json")
        assert find_rank(0).environ()["WORLD_SIZE"] == "2"
        expect_finished(process, LONG_STEPS)
        assert "rank 0 died: Signal 9" in read_errors()
        # Rounding grows from step to step: 4e-6 after 20 steps, 1.3e-4 after 50.
        expect_same_losses(read_curve()[:20], unharmed[:20])
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
        assert "launch.launcher = ssh: second: ssh: connect to host" in read_errors()
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
    assert {find_rank(0), find_rank(1)} <= set(list_processes())
    process.send_signal(number)
    process.wait(SLACK_S)
    expect_none_left(SLACK_S)
