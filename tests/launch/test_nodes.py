"""Hostfiles, the shares of ranks, and what a node must have in common with the launcher."""

import copy
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.train.corpus import LAUNCH, PRETRAIN, build_job
from vatt.core.errors import StageError
from vatt.launch import supervision
from vatt.launch.agent import MARK_NAME, collect_facts
from vatt.launch.cluster import Node, read_hostfile, wrap_command
from vatt.launch.supervision import find_problems, find_shares
from vatt.params import SshParams
from vatt.train.recipe import AnyJob


def test_a_hostfile_names_nodes_in_order(tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    path.write_text("# two racks\nb slots=8\n\nuser@10.0.0.1   slots=4 # old\nc\n")
    assert read_hostfile(path) == [Node("b", 8), Node("user@10.0.0.1", 4), Node("c", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a slots=0\n", "line 1: 'a slots=0' is not `host slots=N`"),
        ("a\nb slot=2\n", "line 2: 'b slot=2' is not"),
        ("-oProxyCommand=x slots=1\n", "line 1: '-oProxyCommand=x slots=1' is not"),
        ("a\na slots=2\n", "line 2: a is there twice"),
        ("# none\n", "holds no host"),
    ],
)
def test_a_wrong_hostfile_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "hostfile"
    path.write_text(text)
    with pytest.raises(StageError) as raised:
        read_hostfile(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


def test_a_missing_hostfile_is_named() -> None:
    with pytest.raises(StageError, match=r"launch.ssh.hostfile = no/file: No such file"):
        read_hostfile(Path("no/file"))


def test_ssh_quotes_for_the_shell_of_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    ssh = {"launcher": "ssh", "ssh": SshParams(config=Path("my config"))}
    launch, command = LAUNCH.model_copy(update=ssh), ["python", '{"x": "$y"}']
    *options, host, remote = wrap_command(launch, Node("a", 1), command)
    assert options[-3:] == ["-F", "my config", "--"]
    assert host == "a"
    assert shlex.split(remote) == ["cd", str(folder), "&&", "exec", *command]


@pytest.mark.parametrize(
    ("num_processes", "slots", "num_parts", "expected"),
    [
        (2, [1, 1], 1, [1, 1]),
        (2, [8, 8], 1, [2, 0]),
        (8, [3, 4, 8], 1, [3, 4, 1]),
        (8, [3, 4], 1, [3, 1]),  # 7 do not divide 8 clips, 4 do
        (8, [3], 1, [2]),
        (4, [1], 1, [1]),
        (8, [8], 4, [2]),  # they divide each part of a batch
    ],
)
def test_as_many_ranks_as_divide_the_batch(
    num_processes: int, slots: list[int], num_parts: int, expected: list[int]
) -> None:
    assert PRETRAIN.batch_size == 8
    pretrain = PRETRAIN.model_copy(update={"accumulation_steps": num_parts})
    assert find_shares(pretrain, num_processes, slots) == expected


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The facts of a machine with two shards."""
    monkeypatch.chdir(tmp_path)
    Path("shards").mkdir()
    Path("shards/train-0.tar").write_bytes(b"12")
    Path("shards/train-1.tar").write_bytes(b"123")
    Path(MARK_NAME).write_text("1")
    return collect_facts(Path(), Path(), None)


def test_another_node_is_refused_with_the_cause(facts: dict[str, Any]) -> None:
    def find(there: dict[str, Any], num_ranks: int = 1) -> list[str]:
        return list(find_problems(there, facts, num_ranks, None))

    assert find(collect_facts(Path(), Path(), None), 2) == []
    Path("shards/train-1.tar").unlink()
    assert find(collect_facts(Path(), Path(), None)) == ["shards/train-1.tar is missing"]
    Path("shards/train-1.tar").write_bytes(b"1")
    (problem,) = find(collect_facts(Path(), Path(), None))
    assert problem == "shards/train-1.tar has 1 bytes there, 3 here"
    other = copy.deepcopy(facts)
    other["versions"]["torch"] = "1.0"
    assert find(other)[0].startswith("torch is 1.0 there and ")
    assert find(facts | {"gpus": 4}, 8) == ["has 4 GPUs for 8 processes; mend its slots"]
    assert "must be on a shared disk" in find(facts | {"mark": None})[0]


def test_nodes_with_gpus_and_without_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(job: AnyJob, nodes: list[Node]) -> tuple[dict[Node, dict[str, Any]], str]:
        found = collect_facts(job.directory, job.preprocess_dir, None) | {"address": "10.0.0.1"}
        return {node: found | {"gpus": 4 * (node.name == "b")} for node in nodes}, ""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervision, "list_nodes", lambda _: [Node(name, 1) for name in "abcd"])
    monkeypatch.setattr(supervision, "_ask_nodes", ask)
    with pytest.raises(StageError) as raised:
        supervision.supervise(build_job(num_processes=4))
    reason = "has no GPU, as other nodes have"
    assert str(raised.value) == f"launch.launcher = local: a: {reason}; c: {reason}; d: {reason}"


def test_nodes_that_would_not_meet_are_told_apart(facts: dict[str, Any]) -> None:
    """Others do not reach a loopback address; the port matters on the node that opens it."""

    def find(there: dict[str, Any], number: int | None) -> list[str]:
        return list(find_problems(there, facts, 1, number))

    with socket.create_server(("", 0)) as listener:
        taken = collect_facts(Path(), Path(), listener.getsockname()[1])
    taken["address"] = "10.0.0.1"
    assert find(facts | {"address": "10.0.0.1"}, 0) == find(taken, 1) == []
    assert find(taken, 0) == ["launch.port is in use there; null takes a free one"]
    for address, place in (("127.0.1.1", "127.0.1.1, where other nodes"), (None, "no address")):
        (problem,) = find(facts | {"address": address}, 1)
        assert problem.startswith(f"its name leads to {place}")
        assert find(facts | {"address": address}, None) == []
