"""The workers of a study: started, started again when they died, ended with the stage."""

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from vatt.params import StageError
from vatt.signals import sigterm_raises
from vatt.tuning.plan import Plan
from vatt.tuning.storage import create_storage, told_plainly
from vatt.tuning.study import Study
from vatt.tuning.worker import Order, Train, serve

FORK = multiprocessing.get_context("fork")
"""What the stage has imported need not be imported again, which takes longer than a trial of the
demo. For this the stage itself computes nothing with torch, whose threads a fork would not have."""
END_S = 20.0
"""How long a worker has to end its own processes."""


@dataclass
class _Worker:
    number: int
    process: ForkProcess
    failures: Connection


def run_workers(plan: Plan, folder: Path, train: Train) -> None:
    """Make all trials of a study, as far as they are not there.

    Raises:
        StageError: the storage cannot be used, a training failed, or workers died too often. The
            finished trials stay.
    """
    num_before = _prepare(plan, folder)
    num_left = plan.tune.num_trials - num_before
    if num_left == 0:
        return
    order = Order(plan, folder, train, time.monotonic(), num_before)
    workers: list[_Worker] = []
    with sigterm_raises():
        try:
            while len(workers) < min(plan.tune.num_workers, num_left):
                workers.append(_start(order, len(workers)))
            _watch(order, workers)
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.process.join(END_S)
                worker.process.kill()
                worker.process.join()


def _prepare(plan: Plan, folder: Path) -> int:
    """Create storage and study, say what the user must know; return how many trials are finished."""
    create_storage(plan.tune, folder)
    with told_plainly(plan.tune, folder):
        study = Study(plan, folder)
        num_finished = len(study.list_finished())
        others = study.read_others()
        study.close()
    if num_finished:
        print(f"tune {plan.task}: study {plan.name} goes on after {num_finished} trials")
    elif others:
        name = list(others)[-1]
        changes = ", ".join(plan.list_changes(others[name]))
        print(f"tune {plan.task}: not as in study {name}: {changes}; a new study: {plan.name}")
    return num_finished


def _start(order: Order, number: int) -> _Worker:
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=serve, args=(order, number, os.getpid(), sender))
    process.start()
    sender.close()
    return _Worker(number, process, receiver)


def _watch(order: Order, workers: list[_Worker]) -> None:
    """Wait until all workers are done; start those again that died."""
    num_restarts, task = 0, order.plan.task
    while workers:
        wait([worker.process.sentinel for worker in workers])
        for worker in [worker for worker in workers if worker.process.exitcode is not None]:
            workers.remove(worker)
            _raise_failure(worker)
            if worker.process.exitcode == 0:
                continue
            if num_restarts == order.plan.tune.max_restarts:
                raise StageError(
                    f"workers died more often than tune.max_restarts = {num_restarts}; the last one "
                    f"ended with {worker.process.exitcode}"
                )
            num_restarts += 1
            print(
                f"tune {task}: a worker ended with {worker.process.exitcode}; another goes on",
                flush=True,
            )
            workers.append(_start(order, worker.number))


def _raise_failure(worker: _Worker) -> None:
    """Raise the error that a worker sent before it ended, if it did."""
    try:
        message = worker.failures.recv()
    except (EOFError, ConnectionResetError):
        return
    raise StageError(message)
