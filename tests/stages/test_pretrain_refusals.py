"""Nodes that cannot train together: node and cause are named, and nothing is left running."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from tests.launch.cluster import Cluster, open_cluster
from tests.stages.campaign import (
    HOSTS,
    PATIENCE_S,
    PATIENT,
    ROOT,
    expect_none_left,
    read_errors,
    start_on,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with open_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def take_a_port(cluster: Cluster) -> AbstractContextManager[int | None]:
    return cluster.taking_port("first")


def change_the_code(cluster: Cluster) -> AbstractContextManager[None]:
    path = ROOT / "vatt/stages/promote.py"
    Path("other.py").write_text(path.read_text() + "# later\n")
    return cluster.replacing("second", path, Path("other.py"))


def shorten_a_shard(cluster: Cluster) -> AbstractContextManager[None]:
    path = min(Path("data/preprocess/shards").glob("*.tar"))
    Path("short.tar").write_bytes(path.read_bytes()[:-1])
    return cluster.replacing("second", path, Path("short.tar"))


def hide_the_shards(cluster: Cluster) -> AbstractContextManager[None]:
    Path("empty").mkdir()
    return cluster.replacing("second", Path("data/preprocess/shards"), Path("empty"))


def unshare_the_disk(cluster: Cluster) -> AbstractContextManager[None]:
    Path(".cache").mkdir(exist_ok=True)
    Path("empty").mkdir()
    return cluster.replacing("second", Path(".cache"), Path("empty"))


def change_nothing(_: Cluster) -> AbstractContextManager[None]:
    return nullcontext()


@pytest.mark.parametrize(
    ("harm", "hosts", "message"),
    [
        (take_a_port, HOSTS, "= ssh: first: launch.port is in use there; null takes a free one"),
        (change_the_code, HOSTS, "= ssh: second: the code of vatt is "),
        (shorten_a_shard, HOSTS, r"= ssh: second: data/.*\.tar has \d+ bytes there, \d+ here"),
        (hide_the_shards, HOSTS, r"= ssh: second: data/.*\.tar is missing"),
        (unshare_the_disk, HOSTS, "= ssh: second: does not see the same .cache"),
        (change_nothing, "first slots=1\n", "launch.num_processes = 2: there are 1 slots"),
        (change_nothing, "first slots=2\nsecond slots=0\n", "line 2: 'second slots=0' is not"),
    ],
)
def test_it_is_refused(
    project: Path,
    cluster: Cluster,
    harm: Callable[[Cluster], AbstractContextManager[int | None]],
    hosts: str,
    message: str,
) -> None:
    with harm(cluster) as port:
        process = start_on(cluster, 20, PATIENT, hosts, port)
        assert process.wait(PATIENCE_S) == 1
        assert re.search(message, read_errors())
        assert "Traceback" not in read_errors()
        expect_none_left()
    assert not list(Path(".cache").glob("pretrain/*/step-*"))
