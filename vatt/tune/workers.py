"""The workers of a study: started, started again when they died, ended with the stage.

A process that trains one schedule after another, until the study has all its trials.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from threading import Event, Thread
from typing import Any

import optuna
import torch
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

from vatt.core.errors import StageError
from vatt.core.reports import report_numbers
from vatt.core.signals import die_with_parent, sigterm_raises
from vatt.train.monitor import BadStepsError
from vatt.tune.storage import create_storage, told_plainly
from vatt.tune.study import Claim, Study
from vatt.tune.trials import Plan

POLL_S = 0.1
OnValidation = Callable[[int, float], None]
Train = Callable[[Mapping[str, Any], Path, OnValidation], None]
"""Trains with a schedule, in a folder, from the newest checkpoint there. It tells the step and the
value (larger is better) of every validation, those before a resume included, which may raise to end
the training.

Raises:
    BadStepsError: the schedule does not train.
"""


@dataclass(frozen=True)
class Order:
    """What all workers of a run are to do.

    started_s: by the monotonic clock, when the run began. num_before: trials finished by then.
    """

    plan: Plan
    folder: Path
    train: Train
    started_s: float
    num_before: int


def serve(order: Order, number: int, parent_id: int, failures: Connection) -> None:
    """Work as a process of its own, which ends with its parent; an error is sent to it.

    `number` of the workers of this machine decides on which GPU, where there are several.
    """
    die_with_parent()
    if os.getppid() != parent_id:  # it was too late
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent acts on it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["LOCAL_RANK"] = str(number % max(1, torch.cuda.device_count()))
    try:
        with told_plainly(order.plan.tune, order.folder):
            work(order)
    except StageError as error:
        failures.send(str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it would come again
        traceback.print_exc()
        failures.send(f"{type(error).__name__}: {error}")


def work(order: Order) -> None:
    """Take up trials until the study has all of them.

    Raises:
        StageError: a trial cannot be trained, for reasons that its schedule is not to blame for.
    """
    study = Study(order.plan, order.folder)
    while len(study.list_finished()) < order.plan.tune.num_trials:
        claim = study.claim()
        if claim is None:
            time.sleep(POLL_S)
            continue
        with claim:
            try:
                outcome = run_trial(study, claim, order.train)
            except UpdateFinishedTrialError:
                print(f"tune {order.plan.task}: trial {claim.number}: seemed dead, begins again")
                continue
            _tell(study, order, claim, outcome)


def run_trial(study: Study, claim: Claim, train: Train) -> str:
    """Train the schedule of a trial, from where it was; return in words how it ended.

    Raises:
        UpdateFinishedTrialError: another machine thought it dead.
    """
    values: dict[int, float] = {}

    def on_validation(step: int, value: float) -> None:
        values[step] = value
        study.report(claim, step, value)
        claim.trial.report(value, step)
        if claim.trial.should_prune():
            raise optuna.TrialPruned(f"given up at step {step}")

    schedule = {**study.plan.own, **claim.trial.params}
    try:
        with _beat(study, claim), _log(claim.directory):
            train(schedule, claim.directory, on_validation)
    except (optuna.TrialPruned, BadStepsError) as reason:
        study.finish(claim, TrialState.PRUNED)
        return str(reason)
    value = values[max(values)]
    if not math.isfinite(value):
        study.finish(claim, TrialState.PRUNED)
        return f"its value is {value}"
    study.finish(claim, TrialState.COMPLETE, value)
    return f"{value:.4f}"


@contextlib.contextmanager
def _beat(study: Study, claim: Claim) -> Iterator[None]:
    """Say meanwhile that somebody works on a trial."""
    done = Event()

    def beat() -> None:
        while not done.wait(study.plan.tune.heartbeat_s):
            # Whatever the storage has, who trains will hear it.
            with contextlib.suppress(StorageInternalError):
                study.beat(claim)

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _log(directory: Path) -> Iterator[None]:
    """Let what a training prints go to a file in its folder."""
    directory.mkdir(parents=True, exist_ok=True)
    with (
        (directory / "training.log").open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def _tell(study: Study, order: Order, claim: Claim, outcome: str) -> None:
    """Print a line on a finished trial: the best so far, how many there are, how long it will take."""
    finished, num_trials = study.list_finished(), order.plan.tune.num_trials
    values = {number: row.value for number, row in finished.items() if row.value is not None}
    best = max(values, key=lambda number: values[number], default=None)
    num_here = max(1, len(finished) - order.num_before)
    left_s = (time.monotonic() - order.started_s) / num_here * (num_trials - len(finished))
    told = "" if best is None else f", best {values[best]:.4f} of trial {best}"
    print(
        f"tune {order.plan.task}: trial {claim.number}: {outcome}{told}; {len(finished)} of "
        f"{num_trials}, about {left_s:.0f} s left",
        flush=True,
    )
    numbers = {} if best is None else {"best": values[best]}
    report_numbers("tune", len(finished), {"trial": claim.number, **numbers})


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
