"""The workers of a study: processes that train one schedule after another until all are tried.

They are started again when they die, and end with the stage. On a terminal a progress bar shows how
many trials are finished; a log gets a line for each.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from threading import Event, RLock, Thread
from typing import Any, NamedTuple, NoReturn

import optuna
import torch
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from vatt.core.errors import StageError
from vatt.core.reports import report_numbers
from vatt.core.signals import die_with_parent, sigterm_raises
from vatt.train.monitor import BadStepsError
from vatt.tune.search import Plan
from vatt.tune.study import Claim, Study, create_storage

POLL_S, REDRAW_S = 0.1, 1.0
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


class Report(NamedTuple):
    """How a trial ended, and where the study is then."""

    trial: int
    outcome: str
    num_finished: int
    """The finished trials of the study, on whatever machine."""
    best: tuple[float, int] | None
    """The best value so far and its trial."""


class Progress:
    """Shows the trials of a study: as a bar on a terminal, by a line for each in a log."""

    def __init__(self, plan: Plan, num_finished: int) -> None:
        self._section, self._num_trials = f"tune {plan.task}", plan.tune.num_trials
        self._num_before, self._started_s = num_finished, time.monotonic()
        tqdm.monitor_interval = 0  # no thread, which a fork would not have
        self.bar: tqdm[NoReturn] = tqdm(
            desc=self._section,
            unit="trial",
            initial=num_finished,
            total=self._num_trials,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def show(self, report: Report) -> None:
        """Show a trial, the best so far, how many are finished, and what time is left."""
        num_finished, outcome = report.num_finished, report.outcome
        numbers: dict[str, float] = {"trial": report.trial}
        if report.best is not None:
            numbers["best"] = report.best[0]
            best = "best {:.4f} of trial {}".format(*report.best)
            self.bar.set_postfix_str(best, refresh=False)
            outcome += f", {best}"
        if self.bar.disable:
            trial_s = (time.monotonic() - self._started_s) / max(1, num_finished - self._num_before)
            left = f"about {trial_s * (self._num_trials - num_finished):.0f} s left"
            counts = f"{num_finished} of {self._num_trials}"
            print(f"{self._section}: trial {report.trial}: {outcome}; {counts}, {left}", flush=True)
        self.bar.n = num_finished
        self.bar.refresh()
        report_numbers("tune", num_finished, numbers)


class Worker(NamedTuple):
    """A process that tries schedules.

    By its pipe it sends a Report for each trial, or a text: the error that ends it.
    """

    number: int
    process: ForkProcess
    pipe: Connection


def run_workers(plan: Plan, folder: Path, train: Train) -> dict[int, FrozenTrial]:
    """Make all trials of a study, as far as they are not there, and return them.

    Raises:
        StageError: the storage cannot be used, a training failed, or workers died too often. The
            finished trials stay.
    """
    create_storage(plan.tune, folder)
    with Study.open(plan, folder) as study:
        num_finished, other = len(study.list_finished()), study.find_other()
    num_left = plan.tune.num_trials - num_finished
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

    progress = Progress(plan, num_finished)
    with sigterm_raises(), contextlib.closing(progress.bar):
        try:
            for number in range(min(plan.tune.num_workers, num_left)):
                start(number)
            _watch(plan, workers, start, progress)
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.process.join(END_S)
                worker.process.kill()
                worker.process.join()
    with Study.open(plan, folder) as study:
        study.tidy()
        return study.list_finished()


def _watch(
    plan: Plan, workers: list[Worker], start: Callable[[int], None], progress: Progress
) -> None:
    """Show what workers report until all are done; start those again that died."""
    num_restarts = 0
    while workers:
        wait([end for each in workers for end in (each.pipe, each.process.sentinel)], REDRAW_S)
        for worker in list(workers):
            code = worker.process.exitcode  # asked first: then all that it sent is in the pipe
            with contextlib.suppress(EOFError, OSError):  # it was killed while it sent
                while worker.pipe.poll():
                    message = worker.pipe.recv()
                    if isinstance(message, str):
                        raise StageError(message)
                    progress.show(message)
            if code is None:
                continue
            workers.remove(worker)
            if code == 0:
                continue
            if num_restarts == plan.tune.max_restarts:
                raise StageError(
                    f"workers died more often than tune.max_restarts = {num_restarts}; the last "
                    f"one ended with {code}"
                )
            num_restarts += 1
            progress.bar.write(f"tune {plan.task}: a worker ended with {code}; another goes on")
            start(worker.number)
        progress.bar.refresh()


def serve(
    plan: Plan, folder: Path, train: Train, number: int, parent_id: int, pipe: Connection
) -> None:
    """Take up trials until the study has all of them, as a process that ends with its parent.

    `number` of the workers of this machine decides on which GPU, where there are several. An error
    that a schedule is not to blame for is sent to the parent.
    """
    die_with_parent()
    if os.getppid() != parent_id:  # it was too late
        os._exit(1)
    # Bars of forks share a lock, which would stay locked if a worker were killed in it.
    tqdm.set_lock(RLock())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent acts on it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["LOCAL_RANK"] = str(number % max(1, torch.cuda.device_count()))
    try:
        with Study.open(plan, folder) as study:
            _work(study, train, pipe)
    except StageError as error:
        pipe.send(str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it would come again
        traceback.print_exc()
        pipe.send(f"{type(error).__name__}: {error}")


def _work(study: Study, train: Train, pipe: Connection) -> None:
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
            finished = study.list_finished()
            values = [(row.value, n) for n, row in finished.items() if row.value is not None]
            best = max(values, key=lambda pair: (pair[0], -pair[1]), default=None)
            pipe.send(Report(claim.number, outcome, len(finished), best))


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
