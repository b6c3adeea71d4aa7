"""The stage on two nodes reached by ssh: whatever befalls one of them, it ends well or clearly."""

import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from tests.launch.cluster import Cluster, open_cluster
from tests.stages import campaign
from tests.stages.campaign import (
    ERRORS,
    HOSTS,
    LINK_S,
    PATIENCE_S,
    PATIENT,
    SLACK_S,
    STEP_S,
    SUPERVISION,
)
from tests.stages.conftest import ROOT

SLOW = pytest.mark.slow
LONG_STEPS, LOST_S = 60, 2 * LINK_S + SLACK_S


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with open_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("harm", "message", "within_s"),
    [
        ("kill a rank", "rank 1 died: Signal 9 (SIGKILL)", SLACK_S),
        pytest.param("stop a rank", "process stopped", STEP_S + SLACK_S, marks=SLOW),
        pytest.param("cut a link", "second: the node is lost: silent", LOST_S, marks=SLOW),
        pytest.param("kill an agent", "the node is lost", LINK_S + SLACK_S, marks=SLOW),
    ],
)
def test_training_ends_well(
    project: Path, cluster: Cluster, harm: str, message: str, within_s: float
) -> None:
    limits = PATIENT if harm == "kill a rank" else SUPERVISION
    process = campaign.start(**campaign.reach_by_ssh(cluster) | {"supervision": limits})
    with campaign.watched(process, cluster):
        campaign.wait_for_step(process, 8)
        before = campaign.read_curve()[:7]
        harmed_s = time.monotonic()
        campaign.harm(cluster, harm)
        seen_s = campaign.wait_for(process, "restart 1 of 2")
        print(f"{harm}: ended and seen after {seen_s - harmed_s:.1f} s")
        assert message in ERRORS.read_text()
        assert seen_s - harmed_s < within_s
        campaign.expect_finished(process)
        campaign.expect_same_losses(campaign.read_curve()[:7], before)  # steps 6 and 7 twice


@SLOW
@pytest.mark.timeout(600)
def test_two_ranks_then_one_then_two_again(project: Path, cluster: Cluster) -> None:
    """A link is cut and mended, then a rank is killed: the losses are as without harm."""
    campaign.expect_finished(
        campaign.start(LONG_STEPS, **campaign.reach_by_ssh(cluster)), LONG_STEPS
    )
    unharmed = campaign.read_curve()
    shutil.rmtree(campaign.RUNS_DIR)
    process = campaign.start(LONG_STEPS, **campaign.reach_by_ssh(cluster))
    with campaign.watched(process, cluster):
        campaign.wait_for_step(process, 6)
        cluster.cut("second")
        campaign.wait_for(process, "pretrain: goes on without second")
        cluster.mend("second")
        # From here on, steps 6 to 10 are those of one rank.
        campaign.wait_for_checkpoint(process, 10)
        campaign.find_rank(0).kill()
        campaign.wait_for(process, "restart 2 of 2")
        campaign.wait_for_checkpoint(process, 30)
        assert campaign.find_rank(0).environ()["WORLD_SIZE"] == "2"
        campaign.expect_finished(process, LONG_STEPS)
        assert "rank 0 died: Signal 9" in ERRORS.read_text()
        # Rounding grows from step to step: 4e-6 after 20 steps, 1.3e-4 after 50.
        campaign.expect_same_losses(campaign.read_curve()[:20], unharmed[:20])


@SLOW
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_cancelled_stage_leaves_no_process_on_any_node(
    project: Path, cluster: Cluster, number: signal.Signals
) -> None:
    process = campaign.start(100_000, **campaign.reach_by_ssh(cluster))
    campaign.wait_for_step(process, 2)
    assert {campaign.find_rank(0), campaign.find_rank(1)} <= set(campaign.list_processes())
    process.send_signal(number)
    process.wait(SLACK_S)
    campaign.expect_none_left(SLACK_S)


def differ(cluster: Cluster, what: str) -> AbstractContextManager[int | None]:
    """Have something else on one of the nodes."""
    if what == "port":
        return cluster.taking_port("first")
    code, shards = ROOT / "vatt/stages/promote.py", Path("data/preprocess/shards")
    shard = min(shards.glob("*.tar"))
    for folder in (".cache", "empty"):
        Path(folder).mkdir()
    Path("later.py").write_text(code.read_text() + "# later\n")
    Path("short.tar").write_bytes(shard.read_bytes()[:-1])
    replaced = {
        "code": (code, Path("later.py")),
        "shard": (shard, Path("short.tar")),
        "shards": (shards, Path("empty")),
        "disk": (Path(".cache"), Path("empty")),
    }
    return cluster.replacing("second", *replaced[what]) if what in replaced else nullcontext()


@SLOW
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("what", "hosts", "message"),
    [
        ("port", HOSTS, "= ssh: first: launch.port is in use there; null takes a free one"),
        ("code", HOSTS, "= ssh: second: the code of vatt is "),
        ("shard", HOSTS, r"= ssh: second: data/.*\.tar has \d+ bytes there, \d+ here"),
        ("shards", HOSTS, r"= ssh: second: data/.*\.tar is missing"),
        ("disk", HOSTS, "= ssh: second: does not see the same .cache"),
        ("one slot", "first slots=1\n", "launch.num_processes = 2: there are 1 slots"),
        ("no slot", "first slots=2\nsecond slots=0\n", "line 2: 'second slots=0' is not"),
    ],
)
def test_nodes_that_cannot_train_together_are_refused(
    project: Path, cluster: Cluster, what: str, hosts: str, message: str
) -> None:
    """Node and cause are named, and nothing is left running."""
    with differ(cluster, what) as port:
        launch = {**campaign.reach_by_ssh(cluster, hosts), "supervision": PATIENT, "port": port}
        assert campaign.start(20, **launch).wait(PATIENCE_S) == 1
        assert re.search(message, ERRORS.read_text())
        assert "Traceback" not in ERRORS.read_text()
        campaign.expect_none_left()
    assert not list(campaign.RUNS_DIR.glob("*/step-*"))


@SLOW
def test_an_unreachable_node_is_named(project: Path, cluster: Cluster) -> None:
    cluster.cut("second")
    try:
        assert campaign.start(**campaign.reach_by_ssh(cluster)).wait(PATIENCE_S) == 1
        assert "launch.launcher = ssh: second: ssh: connect to host" in ERRORS.read_text()
        campaign.expect_none_left()
    finally:
        cluster.mend("second")
