"""Trains to the end: attempt after attempt, on the nodes that are left, each from the newest checkpoint.

One attempt to train: agents on all nodes, ranks shared out among them, and how it ended.
"""

import json
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.launch.agent import MARK_NAME, collect_facts, find_problem
from vatt.launch.ssh import Connection, Node, Reach, build_agent_command
from vatt.params import TrainingParams
from vatt.params.launch import SupervisionParams
from vatt.train.recipe import Job

PULSE_S = 0.5
SETTLE_S = 2.0
"""What follows from a failure on other nodes is told within this time after it."""
END_S = 10.0
"""An agent that hears the end kills its processes within this time."""
CAUSES = ("stage", "lost", "died", "stall", "error")
"""Kinds of ends: where several nodes fail at once, the first of these is the reason."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended: on which node, of which kind (see CAUSES), and in words."""

    node: str
    kind: str
    message: str


@dataclass
class Crew:
    """The agents of an attempt, and what went wrong with those that are missing."""

    job: Job
    connections: list[Connection]
    missing: dict[str, str] = field(default_factory=dict)

    def pulse(self) -> None:
        """Give a sign of life to every agent, then wait a moment."""
        for connection in self.connections:
            connection.send({})
        time.sleep(PULSE_S)

    @property
    def limits(self) -> SupervisionParams:
        """What the patience ends at."""
        return self.job.recipe.launch.supervision


@contextmanager
def open_crew(job: Job, reach: Reach, nodes: Sequence[Node]) -> Iterator[Crew]:
    """Start an agent on each node and yield those that said hello; at the end, end them all.

    After it no process of the attempt runs on any node: one that cannot be reached any more has
    been given the time to notice (link_timeout_s).
    """
    question = {
        "directory": str(job.directory),
        "preprocess_dir": str(job.preprocess_dir),
        "port": job.recipe.launch.port,
        "supervision": job.recipe.launch.supervision.model_dump(),
    }
    command = build_agent_command(json.dumps(question))
    crew = Crew(job, [])
    everyone: list[Connection] = []
    try:
        for node in nodes:
            wrapped = reach.wrap(node, command)
            everyone.append(Connection(node, wrapped, shares_terminal=reach.shares_terminal))
        crew.connections = list(everyone)
        _gather(crew)
        yield crew
    finally:
        _dismiss(everyone, crew.limits)


def train(crew: Crew, ranks: Sequence[int]) -> Failure | None:
    """Train with so many ranks on each node; return why it failed, None if the marker is there."""
    staffed = [(c, n) for c, n in zip(crew.connections, ranks, strict=True) if n]
    crew.connections = [connection for connection, _ in staffed]
    _check(crew, [num_ranks for _, num_ranks in staffed])
    crew.job.weights_path.unlink(missing_ok=True)
    hellos = [connection.hello or {} for connection in crew.connections]
    meeting = [
        *(f"--nnodes={len(staffed)}", "--rdzv-backend=c10d", f"--rdzv-id={uuid.uuid4().hex}"),
        f"--rdzv-endpoint={hellos[0]['address']}:{hellos[0]['port']}",
    ]
    for number, (connection, num_ranks) in enumerate(staffed):
        address = hellos[number]["address"]
        is_host = f"--rdzv-conf=is_host={int(number == 0)}"
        arguments = [*meeting, is_host, f"--local-addr={address}"]
        order = {
            "arguments": arguments if len(staffed) > 1 else ["--standalone"],
            "address": address if len(staffed) > 1 else "127.0.0.1",
            "num_ranks": num_ranks,
            "job": crew.job.model_dump(mode="json"),
        }
        connection.send(order)
    return _watch(crew)


def _gather(crew: Crew) -> None:
    """Wait until every agent has said hello; those that do not are missing from then on."""
    deadline_s = time.monotonic() + crew.limits.link_timeout_s + END_S
    waiting = list(crew.connections)
    while waiting and time.monotonic() < deadline_s:
        crew.pulse()
        for connection in list(waiting):
            loss = connection.find_loss(crew.limits.link_timeout_s + END_S)
            if loss is not None and connection.hello is None:
                crew.missing[connection.node.name] = loss
            if loss is not None or connection.hello is not None:
                waiting.remove(connection)
    crew.missing |= {connection.node.name: "it does not answer" for connection in waiting}
    crew.connections = [c for c in crew.connections if c.node.name not in crew.missing]


def _check(crew: Crew, ranks: Sequence[int]) -> None:
    """Compare the nodes that are to train with this machine.

    Raises:
        StageError: one cannot take part; all problems are listed.
    """
    launch = crew.job.recipe.launch
    here = collect_facts(crew.job.directory, crew.job.preprocess_dir, None)
    problems = []
    for number, (connection, num_ranks) in enumerate(zip(crew.connections, ranks, strict=True)):
        hello = connection.hello or {}
        problem = find_problem(hello, here, num_ranks)
        if problem is None and len(ranks) > 1:
            problem = _find_network_problem(hello, opens_port=number == 0)
        if problem is not None:
            problems.append(f"{connection.node.name}: {problem}")
    if problems:
        raise StageError(f"launch.launcher = {launch.launcher}: " + "; ".join(problems))


def _find_network_problem(hello: dict[str, Any], *, opens_port: bool) -> str | None:
    """Say why other nodes would not meet this one, or None."""
    if hello["address"] is None:
        return "its name leads to no address"
    if hello["address"].startswith("127."):
        return f"its name leads to {hello['address']}, where other nodes do not reach it"
    if opens_port and hello["port"] is None:
        return "launch.port is in use there; null takes a free one"
    return None


def _watch(crew: Crew) -> Failure | None:
    """Wait for the end of the attempt, in one way or another."""
    failures: list[tuple[int, float, Failure]] = []
    first_failure_s = None
    while first_failure_s is None or time.monotonic() - first_failure_s < SETTLE_S:
        crew.pulse()
        if all(c.end is not None and c.end["kind"] == "done" for c in crew.connections):
            break
        failures = [found for c in crew.connections if (found := _find_failure(c, crew.limits))]
        if failures and first_failure_s is None:
            first_failure_s = time.monotonic()
    if crew.job.weights_path.is_file():  # the marker: written last, and at once
        return None
    if not failures:
        return Failure("", "error", f"{crew.job.weights_path} was not written")
    return _find_cause(failures)


def _find_cause(failures: Sequence[tuple[int, float, Failure]]) -> Failure:
    """Return the failure from which the others follow; where all nodes hang, tell of each."""
    first = min(failures, key=lambda found: found[:2])[2]
    stalls = [failure for _, _, failure in failures if failure.kind == "stall"]
    if first.kind != "stall" or len(stalls) == 1:
        return first
    return Failure("", "stall", "; ".join(f"{stall.node}: {stall.message}" for stall in stalls))


def _find_failure(
    connection: Connection, limits: SupervisionParams
) -> tuple[int, float, Failure] | None:
    """Return how an agent failed, with what orders it among the others."""
    name, loss = connection.node.name, connection.find_loss(limits.link_timeout_s)
    if loss is not None:
        return CAUSES.index("lost"), 0.0, Failure(name, "lost", f"the node is lost: {loss}")
    end: dict[str, Any] | None = connection.end
    if end is None or end["kind"] == "done":
        return None
    return CAUSES.index(end["kind"]), end["time_s"], Failure(name, end["kind"], end["message"])


def _dismiss(connections: Sequence[Connection], limits: SupervisionParams) -> None:
    """End all agents, and wait until those out of reach must have ended by themselves."""
    lost = [c for c in connections if c.find_loss(limits.link_timeout_s) is not None]
    started_s = time.monotonic()
    for connection in connections:
        connection.hang_up()
    for connection in connections:
        left_s = started_s + (0.0 if connection in lost else END_S) - time.monotonic()
        if not connection.close(left_s) and connection not in lost:
            lost.append(connection)
    if any(connection.hello is not None for connection in lost):
        time.sleep(max(0.0, started_s + limits.link_timeout_s + PULSE_S * 4 - time.monotonic()))


def supervise(job: Job, reach: Reach) -> None:
    """Run a job on the nodes of `reach` until its weights are there.

    Raises:
        StageError: a node cannot take part in the first attempt, the job cannot go on, or it failed
            more than `launch.supervision.max_restarts` times; the message says where and why.
    """
    nodes, launch, section = reach.list_nodes(), job.recipe.launch, job.recipe.section
    slots = sum(node.slots for node in nodes)
    if slots < launch.num_processes:
        raise StageError(f"launch.num_processes = {launch.num_processes}: there are {slots} slots")
    job.directory.mkdir(parents=True, exist_ok=True)
    with atomic_path(job.directory / MARK_NAME) as partial:
        partial.write_text(uuid.uuid4().hex, encoding="utf-8")
    num_restarts = launch.supervision.max_restarts
    for attempt in range(num_restarts + 1):
        failure = _attempt(job, reach, nodes, is_first=attempt == 0)
        if failure is None:
            return
        where = f"{failure.node}: " if len(nodes) > 1 and failure.node else ""
        if failure.kind == "stage":
            raise StageError(failure.message)
        if attempt == num_restarts:
            raise StageError(f"{where}{failure.message}")
        print(
            f"{section}: {where}{failure.message}\n"
            f"{section}: restart {attempt + 1} of {num_restarts}, from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )


def _attempt(job: Job, reach: Reach, nodes: Sequence[Node], *, is_first: bool) -> Failure | None:
    """Train once, on all nodes the first time, later on those that answer."""
    section = job.recipe.section
    with open_crew(job, reach, nodes) as crew:
        if crew.missing:
            missing = "; ".join(f"{name}: {problem}" for name, problem in crew.missing.items())
            if is_first or not crew.connections:
                raise StageError(f"launch.launcher = {job.recipe.launch.launcher}: {missing}")
            print(f"{section}: training goes on without {missing}", file=sys.stderr, flush=True)
        launch, slots = job.recipe.launch, [c.node.slots for c in crew.connections]
        ranks = find_shares(job.recipe.training, launch.num_processes, slots)
        launch = launch.model_copy(update={"num_processes": sum(ranks)})
        recipe = job.recipe.model_copy(update={"launch": launch})
        crew.job = job.model_copy(update={"recipe": recipe})
        return train(crew, ranks)


def find_shares(training: TrainingParams, num_processes: int, slots: Sequence[int]) -> list[int]:
    """Return how many ranks each node runs: the most that divide the batch, in the order of nodes.

    With fewer ranks each computes more clips: a batch is the same clips with any number of them.
    """
    clips = training.batch_size // training.accumulation_steps
    num_ranks = min(num_processes, sum(slots))
    while clips % num_ranks:
        num_ranks -= 1
    shares: list[int] = []
    for available in slots:
        shares.append(min(available, num_ranks - sum(shares)))
    return shares
