"""Hostfiles, the shares of ranks, and what a node must have in common with the launcher."""

import copy
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.train.corpus import LAUNCH, PRETRAIN
from vatt.core.errors import StageError
from vatt.launch.facts import MARK_NAME, collect_facts, find_problems
from vatt.launch.nodes import Node, list_nodes, wrap_command
from vatt.launch.slurm import build_script
from vatt.launch.supervision import find_shares
from vatt.params import SlurmParams, SshParams


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
    launch = LAUNCH.model_copy(update={"ssh": SshParams(config=Path("my config"))})
    *ssh, host, remote = Ssh(launch).wrap(Node("a", 1), ["python", '{"x": "$y"}'])
    assert ssh[-3:] == ["-F", "my config", "--"]
    assert host == "a"
    expected = ["cd", str(folder), "&&", "exec", "python", '{"x": "$y"}']
    assert shlex.split(remote) == expected


@pytest.mark.parametrize(
    ("num_processes", "slots", "expected"),
    [
        (2, [1, 1], [1, 1]),
        (2, [8, 8], [2, 0]),
        (8, [3, 4, 8], [3, 4, 1]),
        (8, [3, 4], [3, 1]),  # 7 do not divide 8 clips, 4 do
        (8, [3], [2]),
        (4, [1], [1]),
    ],
)
def test_as_many_ranks_as_divide_the_batch(
    num_processes: int, slots: list[int], expected: list[int]
) -> None:
    assert PRETRAIN.batch_size == 8
    assert find_shares(PRETRAIN, num_processes, slots) == expected


def test_ranks_divide_each_part_of_a_batch() -> None:
    pretrain = PRETRAIN.model_copy(update={"accumulation_steps": 4})
    assert find_shares(pretrain, 8, [8]) == [2]


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The facts of a machine with two shards."""
    monkeypatch.chdir(tmp_path)
    Path("shards").mkdir()
    Path("shards/train-0.tar").write_bytes(b"12")
    Path("shards/train-1.tar").write_bytes(b"123")
    Path(MARK_NAME).write_text("1")
    return collect_facts(Path(), Path(), None)


def test_equal_machines_have_no_problem(facts: dict[str, Any]) -> None:
    assert find_problem(collect_facts(Path(), Path(), None), facts, 2) is None


def test_another_node_is_refused_with_the_cause(facts: dict[str, Any]) -> None:
    Path("shards/train-1.tar").unlink()
    there = collect_facts(Path(), Path(), None)
    assert find_problem(there, facts, 1) == "shards/train-1.tar is missing"
    Path("shards/train-1.tar").write_bytes(b"1")
    there = collect_facts(Path(), Path(), None)
    assert find_problem(there, facts, 1) == "shards/train-1.tar has 1 bytes there, 3 here"
    other = copy.deepcopy(facts)
    other["versions"]["torch"] = "1.0"
    assert str(find_problem(other, facts, 1)).startswith("torch is 1.0 there and ")
    few = facts | {"gpus": 4}
    assert find_problem(few, facts, 8) == "has 4 GPUs for 8 processes; mend its slots"
    apart = facts | {"mark": None}
    assert "must be on a shared disk" in str(find_problem(apart, facts, 1))


def test_nodes_that_would_not_meet_are_told_apart(facts: dict[str, Any]) -> None:
    """Others do not reach a loopback address; the port matters on the node that opens it."""
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        taken = collect_facts(Path(), Path(), port)
    seen = facts | {"address": "10.0.0.1"}
    assert _find_network_problem(seen, opens_port=True) is None
    taken["address"] = "10.0.0.1"
    assert _find_network_problem(taken, opens_port=False) is None
    assert str(_find_network_problem(taken, opens_port=True)).startswith("launch.port is in use")
    for address, place in (("127.0.1.1", "127.0.1.1, where other nodes"), (None, "no address")):
        problem = _find_network_problem(facts | {"address": address}, opens_port=False)
        assert str(problem).startswith(f"its name leads to {place}")


def test_the_script_of_slurm_asks_for_what_params_say() -> None:
    slurm = SlurmParams(
        num_nodes=4, partition="gpu", gpus_per_node=8, cpus_per_node=64, options=("--account=me",)
    )
    launch = LAUNCH.model_copy(update={"slurm": slurm, "num_processes": 32})
    lines = build_script(launch, Path("job.json"), Path("/runs/slurm.log")).splitlines()
    assert lines[0] == "#!/bin/bash"
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    asked = {"--nodes=4", "--partition=gpu", "--gpus-per-node=8", "--cpus-per-task=64"}
    assert options >= asked | {"--account=me", "--ntasks-per-node=1", "--no-kill", "--requeue"}
    assert options >= {"--time=1-00:00:00", "--output=/runs/slurm.log"}
    assert lines[-1].endswith('-m vatt.launch.slurm job.json "${nodes[@]}"')
