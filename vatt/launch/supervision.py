"""Runs a job to the end: attempt after attempt, each on the nodes that answer.

Each attempt goes on from what is done: a training from its newest checkpoint.
"""

import json
import math
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from vatt.core.errors import StageError
from vatt.core.files import atomic_path, write_json
from vatt.launch.agent import MARK_NAME, End, build_order, collect_facts
from vatt.launch.cluster import Connection, Node, list_nodes
from vatt.params import TrainingParams
from vatt.train.recipe import AnyJob

PULSE_S = 0.5
SETTLE_S = 2.0
"""What follows from a failure on other nodes is reported within this time after it."""
END_S = 10.0
"""An agent that is asked to end has killed its processes within this time."""
CAUSES = ("stage", "lost", "died", "stall", "error")
"""Where several nodes fail at once, the first of these kinds of ends is the reason."""


def supervise(job: AnyJob) -> None:
    """Run a job on the nodes of its launcher until its result is there.

    Raises:
        StageError: a node cannot take part in the first attempt, the job cannot go on, or it failed
            more than `launch.supervision.max_restarts` times; the message says where and why.
    """
    launch, num_restarts = job.recipe.launch, job.recipe.launch.supervision.max_restarts
    nodes = list_nodes(launch)
    slots = sum(node.slots for node in nodes)
    if slots < launch.num_processes:
        raise StageError(f"launch.num_processes = {launch.num_processes}: there are {slots} slots")
    job.directory.mkdir(parents=True, exist_ok=True)
    with atomic_path(job.directory / MARK_NAME) as partial:
        partial.write_text(uuid.uuid4().hex, encoding="utf-8")

    def say(message: str) -> None:
        print(f"{job.recipe.section}: {message}", file=sys.stderr, flush=True)

    for attempt in range(num_restarts + 1):
        facts, missing = _ask_nodes(job, nodes)
        if missing and (attempt == 0 or not facts):
            raise StageError(f"launch.launcher = {launch.launcher}: {missing}")
        if missing:
            say(f"goes on without {missing}")
        end = _attempt(job, facts)
        if end.kind == "done":
            return
        if end.kind == "stage" or attempt == num_restarts:
            raise StageError(end.message)
        say(end.message)
        say(f"restart {attempt + 1} of {num_restarts}, from what is done")


def find_shares(
    training: TrainingParams | None, num_processes: int, slots: Sequence[int]
) -> list[int]:
    """Return how many ranks each node runs: the most that divide the batch, in the order of nodes.

    With fewer ranks each computes more clips: a batch is the same clips with any number of them.
    Where nothing is trained, any number will do.
    """
    clips = training.batch_size // training.accumulation_steps if training else 0
    most = min(num_processes, sum(slots))
    num_ranks = next(number for number in range(most, 0, -1) if clips % number == 0)
    left = [max(0, num_ranks - sum(slots[:index])) for index in range(len(slots))]
    return list(map(min, slots, left))


def find_problems(
    there: Mapping[str, Any], here: Mapping[str, Any], num_ranks: int, number: int | None
) -> list[str]:
    """Return why a node cannot run `num_ranks` of a job started `here`, from their facts.

    `number` is its place among several nodes, of which the first, 0, opens the port to meet at;
    None for a node that is alone.
    """
    problems, address = [], there["address"]
    if there["mark"] != here["mark"]:
        problems.append("does not see the same .cache, which must be on a shared disk")
    for name, expected in here["versions"].items():
        if (found := there["versions"][name]) != expected:
            problems.append(f"{name} is {found} there and {expected} here")
    for path, size in here["files"].items():
        if (found := there["files"].get(path)) != size:
            state = "is missing" if found is None else f"has {found} bytes there, {size} here"
            problems.append(f"{path} {state}")
    if 0 < there["gpus"] < num_ranks:
        problems.append(f"has {there['gpus']} GPUs for {num_ranks} processes; mend its slots")
    if number is not None and address is None:
        problems.append("its name leads to no address")
    elif number is not None and address.startswith("127."):
        problems.append(f"its name leads to {address}, where other nodes do not reach it")
    if number == 0 and there["port"] is None:
        problems.append("launch.port is in use there; null takes a free one")
    return problems


def _ask_nodes(job: AnyJob, nodes: Sequence[Node]) -> tuple[dict[Node, dict[str, Any]], str]:
    """Return the facts of the nodes that answer, and in words which others do not, and why."""
    launch = job.recipe.launch
    question = json.dumps([str(job.directory), str(job.preprocess_dir), launch.port])
    # Later than ssh would give up, so that it says itself what is wrong.
    deadline_s = time.monotonic() + launch.supervision.link_timeout_s + END_S
    asked = [Connection(launch, node, "facts", question) for node in nodes]
    try:
        waiting = asked
        while waiting and time.monotonic() < deadline_s:
            time.sleep(PULSE_S / 5)
            waiting = [e for e in waiting if e.find_loss(math.inf) is None and e.answer is None]
        facts = {each.node: each.answer for each in asked if each.answer is not None}
        reasons = {e: e.find_loss(math.inf) or "it does not answer" for e in asked if not e.answer}
        return facts, "; ".join(f"{each.node.name}: {why}" for each, why in reasons.items())
    finally:
        for each in asked:
            each.close(0.0)


def _attempt(job: AnyJob, facts: Mapping[Node, Mapping[str, Any]]) -> End:
    """Run a job once on some nodes and return how it ended, when none of its processes is left.

    Raises:
        StageError: a node cannot take part; all problems are listed.
    """
    launch, slots = job.recipe.launch, [node.slots for node in facts]
    shares = find_shares(job.recipe.training, launch.num_processes, slots)
    nodes = {node: share for node, share in zip(facts, shares, strict=True) if share}
    here = collect_facts(job.directory, job.preprocess_dir, None)
    on_gpus, problems = any(facts[node]["gpus"] for node in nodes), []
    for number, (node, share) in enumerate(nodes.items()):
        found = find_problems(facts[node], here, share, number if len(nodes) > 1 else None)
        if on_gpus and not facts[node]["gpus"]:  # ranks on CPUs and GPUs would wait for each other
            found.append("has no GPU, as other nodes have")
        problems += [f"{node.name}: {problem}" for problem in found[:1]]
    if problems:
        raise StageError(f"launch.launcher = {launch.launcher}: " + "; ".join(problems))
    updates = {"launch": launch.model_copy(update={"num_processes": sum(shares)})}
    attempt = job.model_copy(update={"recipe": job.recipe.model_copy(update=updates)})
    path = job.directory / "attempt.json"
    write_json(path, attempt.model_dump(mode="json"))
    job.result_path.unlink(missing_ok=True)
    first = facts[next(iter(nodes))]
    meeting = (len(nodes), first["address"], first["port"])
    connections: list[Connection] = []
    timeout_s = launch.supervision.link_timeout_s
    try:
        for number, (node, share) in enumerate(nodes.items()):
            order = build_order(path, share, facts[node]["address"], number, meeting)
            connections.append(Connection(launch, node, "train", str(timeout_s), *order))
        return _watch(job, connections)
    finally:
        _dismiss(connections, timeout_s)


def _watch(job: AnyJob, connections: Sequence[Connection]) -> End:
    """Wait for the end of an attempt, in one way or another, and return it."""
    settled_s, timeout_s = math.inf, job.recipe.launch.supervision.link_timeout_s
    failures: dict[str, End] = {}
    while time.monotonic() < settled_s:
        time.sleep(PULSE_S)
        for each in connections:
            if (loss := each.find_loss(timeout_s)) is not None:
                failures[each.node.name] = End("lost", f"the node is lost: {loss}")
            elif each.answer is not None and each.answer[0] != "done":
                failures[each.node.name] = End(*each.answer)
        if failures:
            settled_s = min(settled_s, time.monotonic() + SETTLE_S)
        elif all(each.answer is not None for each in connections):
            break
    if job.result_path.is_file():  # the marker: written last, and at once
        return End("done")
    if not failures:
        return End("error", f"{job.result_path} was not written")
    first = min(failures.values(), key=lambda end: (CAUSES.index(end.kind), end.time_s))
    if first.kind == "stage":
        return first
    # A rank that hangs makes all nodes hang: only together do their words show which one it is.
    causes = {n: e for n, e in failures.items() if e is first or e.kind == first.kind == "stall"}
    is_local = job.recipe.launch.launcher == "local"
    words = [end.message if is_local else f"{name}: {end.message}" for name, end in causes.items()]
    return first._replace(message="; ".join(words))


def _dismiss(connections: Sequence[Connection], timeout_s: float) -> None:
    """End all agents, and wait until those out of reach must have ended by themselves."""
    started_s = time.monotonic()
    are_lost = [each.find_loss(timeout_s) is not None for each in connections]
    for each in connections:
        each.hang_up()
    for number, each in enumerate(connections):
        left_s = started_s + (0.0 if are_lost[number] else END_S) - time.monotonic()
        are_lost[number] |= not each.close(left_s)
    if any(are_lost):
        time.sleep(max(0.0, started_s + timeout_s + 4 * PULSE_S - time.monotonic()))
