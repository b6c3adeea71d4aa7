"""The workers of a study: processes that train one schedule after another until all are tried.

They are started again when they die, and end with the stage.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import optuna
import torch
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from vatt.core.errors import StageError
from vatt.core.reports import report_numbers
from vatt.core.signals import die_with_parent, sigterm_raises
from vatt.train.monitor import BadStepsError
from vatt.tune.plan import Plan
from vatt.tune.storage import create_storage
from vatt.tune.study import Claim, Study, open_study

POLL_S = 0.1
END_S = 20.0
"""How long a worker has to end its own processes."""
FORK = multiprocessing.get_context("fork")
"""What the stage has imported need not be imported again, which takes longer than a trial of the
demo. For this the stage itself computes nothing with torch, whose threads a fork would not have."""
OnValidation = Callable[[int, float], None]
Train = Callable[[Mapping[str, Any], Path, OnValidation], None]
"""Trains with a schedule, in a folder, from the newest checkpoint there. It reports the step and
the value (larger is better) of every validation, those before a resume included, to a function that
may raise to end the training. It raises BadStepsError where the schedule does not train."""


class Worker(NamedTuple):
    """A process that tries schedules, and the pipe by which it sends an error."""

    number: int
    process: ForkProcess
    failures: Connection


def run_workers(plan: Plan, folder: Path, train: Train) -> dict[int, FrozenTrial]:
    """Make all trials of a study, as far as they are not there, and return them.

    Raises:
        StageError: the storage cannot be used, a training failed, or workers died too often. The
            finished trials stay.
    """
    create_storage(plan.tune, folder)
    with open_study(plan, folder) as study:
        num_finished, other = len(study.list_finished()), study.find_other()
    if num_finished:
        print(f"tune {plan.task}: study {plan.name} goes on after {num_finished} trials")
    elif other is not None:
        name, changes = other[0], ", ".join(plan.list_changes(other[1]))
        print(f"tune {plan.task}: not as in study {name}: {changes}; a new study: {plan.name}")
    workers: list[Worker] = []

    def start(number: int) -> None:
        receiver, sender = FORK.Pipe(duplex=False)
        arguments = (plan, folder, train, number, os.getpid(), sender)
        process = FORK.Process(target=serve, args=arguments)
        process.start()
        sender.close()
        workers.append(Worker(number, process, receiver))

    with sigterm_raises():
        try:
            for number in range(min(plan.tune.num_workers, plan.tune.num_trials - num_finished)):
                start(number)
            _watch(plan, workers, start)
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.process.join(END_S)
                worker.process.kill()
                worker.process.join()
    with open_study(plan, folder) as study:
        study.tidy()
        return study.list_finished()


def _watch(plan: Plan, workers: list[Worker], start: Callable[[int], None]) -> None:
    """Wait until all workers are done; start those again that died."""
    num_restarts = 0
    while workers:
        wait([worker.process.sentinel for worker in workers])
        for worker in [worker for worker in workers if worker.process.exitcode is not None]:
            workers.remove(worker)
            with contextlib.suppress(EOFError, ConnectionResetError):
                raise StageError(worker.failures.recv())
            code = worker.process.exitcode
            if code == 0:
                continue
            if num_restarts == plan.tune.max_restarts:
                raise StageError(
                    f"workers died more often than tune.max_restarts = {num_restarts}; the last "
                    f"one ended with {code}"
                )
            num_restarts += 1
            print(f"tune {plan.task}: a worker ended with {code}; another goes on", flush=True)
            start(worker.number)


def serve(
    plan: Plan, folder: Path, train: Train, number: int, parent_id: int, failures: Connection
) -> None:
    """Take up trials until the study has all of them, as a process that ends with its parent.

    `number` of the workers of this machine decides on which GPU, where there are several. An error
    that a schedule is not to blame for is sent to the parent.
    """
    die_with_parent()
    if os.getppid() != parent_id:  # it was too late
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent acts on it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["LOCAL_RANK"] = str(number % max(1, torch.cuda.device_count()))
    try:
        with open_study(plan, folder) as study:
            _work(study, train)
    except StageError as error:
        failures.send(str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it would come again
        traceback.print_exc()
        failures.send(f"{type(error).__name__}: {error}")


def _work(study: Study, train: Train) -> None:
    started_s, num_before = time.monotonic(), len(study.list_finished())
    while len(study.list_finished()) < study.plan.tune.num_trials:
        claim = study.claim()
        if claim is None:
            time.sleep(POLL_S)
            continue
        with claim.lock:
            try:
                outcome = run_trial(study, claim, train)
            except UpdateFinishedTrialError:
                print(f"tune {study.plan.task}: trial {claim.number}: seemed dead, begins again")
                continue
            num_new = max(1, len(study.list_finished()) - num_before)
            _report(study, claim.number, outcome, (time.monotonic() - started_s) / num_new)


def run_trial(study: Study, claim: Claim, train: Train) -> str:
    """Train the schedule of a trial, from where it was; return in words how it ended.

    Raises:
        UpdateFinishedTrialError: another machine thought it dead.
    """
    value = math.nan

    def on_validation(step: int, measured: float) -> None:
        nonlocal value
        value = measured
        study.report(claim, step, value)
        if claim.trial.should_prune():
            raise optuna.TrialPruned(f"given up at step {step}")

    schedule = {**study.plan.own, **claim.trial.params}
    try:
        with _attending(study, claim):
            train(schedule, claim.directory, on_validation)
    except (optuna.TrialPruned, BadStepsError) as reason:
        study.finish(claim, TrialState.PRUNED)
        return str(reason)
    if not math.isfinite(value):
        study.finish(claim, TrialState.PRUNED)
        return f"its value is {value}"
    study.finish(claim, TrialState.COMPLETE, value)
    return f"{value:.4f}"


@contextlib.contextmanager
def _attending(study: Study, claim: Claim) -> Iterator[None]:
    """Meanwhile let what a training prints go to a file in its folder, and its heart beat."""
    done = Event()

    def beat() -> None:
        while not done.wait(study.plan.tune.heartbeat_s):
            # What the storage refuses is raised where the training reports its next value.
            with contextlib.suppress(StorageInternalError):
                study.storage.record_heartbeat(claim.attempt_id)

    claim.directory.mkdir(parents=True, exist_ok=True)
    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        with (
            (claim.directory / "training.log").open("a", encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            yield
    finally:
        done.set()
        thread.join()


def _report(study: Study, number: int, outcome: str, trial_s: float) -> None:
    """Print a line on a trial: the best so far, how many are finished, and what time is left."""
    task, num_trials, finished = study.plan.task, study.plan.tune.num_trials, study.list_finished()
    numbers: dict[str, float] = {"trial": number}
    values = [(row.value, -earlier) for earlier, row in finished.items() if row.value is not None]
    if values:
        best, earlier = max(values)
        numbers["best"] = best
        outcome += f", best {best:.4f} of trial {-earlier}"
    counts = f"{len(finished)} of {num_trials}"
    left_s = trial_s * (num_trials - len(finished))
    print(
        f"tune {task}: trial {number}: {outcome}; {counts}, about {left_s:.0f} s left", flush=True
    )
    report_numbers("tune", len(finished), numbers)
