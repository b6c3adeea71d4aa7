"""A study in its storage: who works on which trial, and what came of it.

The storage is SQLite in .cache/tune, or a server that several machines share. A trial, by its
number, is one schedule. It may take several attempts, rows of the storage, when workers are killed:
the first one by number that did not fail counts, and only that one is started. An attempt goes on
from the checkpoints of those before it. Locks of files keep the processes of one machine apart;
they end with the process that holds them.
"""

import contextlib
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from vatt.core.errors import StageError
from vatt.core.files import atomic_path, hold_lock
from vatt.params import TuneParams
from vatt.tune.search import Plan, choose

SQLITE_NAME = "studies.db"
WAIT_S = 300
"""How long to wait at most for another process to be done with an SQLite file."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
NUMBER, MACHINE, IDENTITY = "trial", "place", "identity"
"""What the storage keeps of an attempt, its trial and its machine; and of a study, its identity."""


def create_storage(tune: TuneParams, folder: Path) -> None:
    """Create the tables of the storage, on a server or as SQLite in `folder`, if they are missing.

    Raises:
        StageError: the storage cannot be used.
    """
    with _explaining_storage_errors(tune, folder), hold_lock(folder / "storage.lock"):
        if tune.storage is None:
            with contextlib.closing(sqlite3.connect(folder / SQLITE_NAME, timeout=WAIT_S)) as file:
                # Stays with the file: those who read need not wait for those who write.
                file.execute("PRAGMA journal_mode=WAL")
        for attempts_left in (2, 1, 0):
            try:
                _open_storage(tune, folder, creates=True).engine.dispose()
                break
            except (StorageInternalError, DBAPIError):
                if attempts_left == 0:
                    raise
                time.sleep(1)  # another machine may be creating them, too


def _open_storage(tune: TuneParams, folder: Path, *, creates: bool = False) -> RDBStorage:
    """Open a storage, which exists unless it `creates` the tables. Each process opens its own."""
    address, engine_options = tune.storage, {}
    if address is None:
        # The file is opened for writing, never created: that is done once, above. Connections are
        # not kept, since a file that is gone is noticed only where it is opened anew.
        address = f"sqlite:///file:{(folder / SQLITE_NAME).absolute()}?mode=rw&uri=true"
        engine_options = {"connect_args": {"timeout": WAIT_S}, "poolclass": NullPool}
    return RDBStorage(
        address,
        engine_options,
        skip_compatibility_check=not creates,
        skip_table_creation=not creates,
        heartbeat_interval=tune.heartbeat_s,
        grace_period=3 * tune.heartbeat_s,
    )


@contextlib.contextmanager
def _explaining_storage_errors(tune: TuneParams, folder: Path) -> Iterator[None]:
    """Say in a line what the storage refuses, and what a person can do about it.

    Raises:
        StageError: in place of what SQLAlchemy and Optuna raise; without the password.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error, ImportError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        cause = getattr(cause, "orig", None) or cause
        reason = str(cause).strip().partition("\n")[0]
        if isinstance(cause, ImportError):
            advice = "A server needs the extra `postgresql` (pip install '.[postgresql]')"
        elif type(cause) is sqlite3.DatabaseError:  # not one of its subclasses, which may pass
            advice = "Restore the file, or remove it: then its finished trials are trained again"
        else:
            advice = "What it holds of finished trials stays: run the stage again when it is back"
        name = f"null ({folder / SQLITE_NAME})"
        if tune.storage is not None:
            name = "(no address)"
            with contextlib.suppress(ArgumentError):
                name = make_url(tune.storage).render_as_string(hide_password=True)
        raise StageError(f"tune.storage = {name}: cannot be used: {reason}. {advice}") from error


@dataclass
class Claim:
    """The right to work on a trial, which ends with the process or when `lock` is closed."""

    number: int
    trial: Trial
    """The trial in memory, with its schedule as it is stored; the values that are reported to it
    decide whether it is given up."""
    directory: Path
    attempt_id: int
    lock: TextIOWrapper


class Study:
    """The trials of a plan. Every process opens its own; `folder` is that of all studies."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self._folder = plan, folder
        self.storage = _open_storage(plan.tune, folder)
        with contextlib.suppress(DuplicatedStudyError):
            self.storage.create_new_study([StudyDirection.MAXIMIZE], plan.name)
        self._id = self.storage.get_study_id_from_name(plan.name)
        self.storage.set_study_user_attr(self._id, IDENTITY, plan.identity)
        self._optuna_study = optuna.load_study(study_name=plan.name, storage=self.storage)
        path = folder / "place"  # the name of this machine, made up once for all studies
        with hold_lock(folder / "place.lock"):
            if not path.exists():
                with atomic_path(path) as partial:
                    partial.write_text(uuid.uuid4().hex, encoding="ascii")
            self._machine = path.read_text(encoding="ascii")

    @classmethod
    @contextlib.contextmanager
    def open(cls, plan: Plan, folder: Path) -> Iterator["Study"]:
        """Open a study whose storage exists, and close its connections at the end.

        Raises:
            StageError: the storage cannot be used.
        """
        with _explaining_storage_errors(plan.tune, folder):
            study = cls(plan, folder)
            yield study
            study.storage.engine.dispose()

    def list_finished(self) -> dict[int, FrozenTrial]:
        """Return the finished trials of the plan, in their order."""
        attempts = self.read_attempts()
        rows = {n: _find_counting(attempts.get(n, ())) for n in range(self.plan.tune.num_trials)}
        return {number: row for number, row in rows.items() if row and row.state in FINISHED}

    def claim(self) -> Claim | None:
        """Take up the first trial that may begin and that nobody works on; None: there is none."""
        num_trials, num_parallel = self.plan.tune.num_trials, self.plan.tune.num_parallel
        with hold_lock(self._folder / "claim.lock"):
            fail_stale_trials(self._optuna_study)
            finished = self.list_finished()
            first = next((n for n in range(num_trials) if n not in finished), num_trials)
            # Trials behind these must know results that are not there yet.
            for number in range(first, min(first + num_parallel, num_trials)):
                if number in finished:
                    continue
                with contextlib.suppress(BlockingIOError):  # another worker is at it
                    lock = hold_lock(self._find_directory(number).with_suffix(".lock"), waits=False)
                    if (claim := self._begin(number, lock)) is not None:
                        return claim
                    lock.close()
        return None

    def report(self, claim: Claim, step: int, value: float) -> None:
        """Store the value of a trial after a step; `claim.trial` then knows whether to go on.

        Raises:
            UpdateFinishedTrialError: the attempt was given up meanwhile: it seemed dead.
        """
        self.storage.set_trial_intermediate_value(claim.attempt_id, step, value)
        claim.trial.report(value, step)

    def finish(self, claim: Claim, state: TrialState, value: float | None = None) -> None:
        """Store how a trial ended, and remove its checkpoints.

        Raises:
            UpdateFinishedTrialError: see `report`.
        """
        with hold_lock(self._folder / "claim.lock"):  # SQLite does not compare and set in one step
            values = None if value is None else [value]
            self.storage.set_trial_state_values(claim.attempt_id, state, values)
        shutil.rmtree(claim.directory, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what is not needed any more: folders and attempts beside finished trials.

        So are the folders that other studies of the task were left with, where nobody trains; they
        are begun anew if such a study goes on.
        """
        with hold_lock(self._folder / "claim.lock"):
            for number, attempts in self.read_attempts().items():
                if not any(row.state in FINISHED for row in attempts):
                    continue
                for row in attempts:
                    if row.state == TrialState.WAITING:
                        with contextlib.suppress(UpdateFinishedTrialError):  # another was faster
                            self._fail(row)
                shutil.rmtree(self._find_directory(number), ignore_errors=True)
            for directory in self._folder.glob(f"{self.plan.task}-*/trial-*[0-9]"):
                lock_path = directory.with_suffix(".lock")
                if directory.parent.name != self.plan.name:
                    with contextlib.suppress(BlockingIOError), hold_lock(lock_path, waits=False):
                        shutil.rmtree(directory, ignore_errors=True)

    def find_other(self) -> tuple[str, str] | None:
        """Return name and identity of the newest other study of the task, None if there is none."""
        others = [
            (str(summary.datetime_start), summary.study_name, summary.user_attrs[IDENTITY])
            for summary in optuna.get_all_study_summaries(self.storage)
            if summary.study_name.startswith(f"{self.plan.task}-")
            and summary.study_name != self.plan.name
            and summary.datetime_start is not None
            and IDENTITY in summary.user_attrs
        ]
        return max(others)[1:] if others else None

    def _find_directory(self, number: int) -> Path:
        return self._folder / self.plan.name / f"trial-{number:04d}"

    def read_attempts(self) -> dict[int, list[FrozenTrial]]:
        """Return all attempts at each trial, in their order."""
        found: dict[int, list[FrozenTrial]] = {}
        for row in self._optuna_study.get_trials(deepcopy=False):
            if NUMBER in row.user_attrs:  # else it is somebody else's, such as the dashboard's
                found.setdefault(row.user_attrs[NUMBER], []).append(row)
        return found

    def _begin(self, number: int, lock: TextIOWrapper) -> Claim | None:
        """Start an attempt at a trial whose lock is held; None if that is not possible now."""
        attempts = self.read_attempts()
        if any(earlier not in attempts for earlier in range(number)):
            return None  # one before it is being taken up
        row = _find_counting(attempts.get(number, ()))
        if row is not None and row.state == TrialState.RUNNING:
            if row.user_attrs.get(MACHINE) != self._machine:
                return None  # another machine works on it
            # A worker of this machine did, and the lock is free: it is dead.
            self._fail(row)
            row = None
        known = {n: _find_counting(attempts[n]) or attempts[n][0] for n in range(number)}
        if row is None:
            stored = attempts[number][0].params if number in attempts else None
            self._add(number, choose(self.plan, number, known, stored))
            row = _find_counting(self.read_attempts()[number])  # another's, if that was faster
            assert row is not None
        trial, attempt_id = choose(self.plan, number, known, row.params), self._find_id(row)
        self.storage.record_heartbeat(attempt_id)  # first: without one it would never be stale
        with contextlib.suppress(UpdateFinishedTrialError):  # another machine has even finished it
            if self.storage.set_trial_state_values(attempt_id, TrialState.RUNNING):
                self.storage.set_trial_user_attr(attempt_id, MACHINE, self._machine)
                return Claim(number, trial, self._find_directory(number), attempt_id, lock)
        return None

    def _add(self, number: int, trial: Trial) -> None:
        """Add an attempt at a trial, for anybody to start."""
        self._optuna_study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={NUMBER: number},
            )
        )

    def _fail(self, row: FrozenTrial) -> None:
        self.storage.set_trial_state_values(self._find_id(row), TrialState.FAIL)

    def _find_id(self, row: FrozenTrial) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, row.number)


def _find_counting(attempts: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the attempt at a trial that counts, if there is one."""
    return next((row for row in attempts if row.state != TrialState.FAIL), None)
