"""Trains to the end: attempt after attempt, on the nodes that are left, each from the newest checkpoint."""

import sys
import uuid
from collections.abc import Sequence

from vatt.atomic import atomic_path
from vatt.params import StageError, TrainingParams
from vatt.train.jobs.recipes import Job
from vatt.train.launchers.attempt import Failure, open_crew, train
from vatt.train.launchers.connection import Node
from vatt.train.launchers.node.facts import MARK_NAME
from vatt.train.launchers.reach import Reach


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
