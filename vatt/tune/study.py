"""A study in its storage: who works on which trial, and what came of it.

A trial, by its number, is one schedule. It may take several attempts, rows of the storage, when
workers are killed: the first one by number that did not fail counts, and only that one is started.
An attempt goes on from the checkpoints of those before it.
"""

import contextlib
import shutil
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Self

import optuna
from optuna.exceptions import (
    DuplicatedStudyError,
    ExperimentalWarning,
    UpdateFinishedTrialError,
)
from optuna.storages import fail_stale_trials
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from vatt.core.files import atomic_path
from vatt.tune.storage import hold, open_storage, told_plainly, try_lock
from vatt.tune.trials import Plan, choose

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
Attempts = dict[int, list[FrozenTrial]]
TRIAL = "trial-"
NUMBER, PLACE, IDENTITY = "trial", "place", "identity"
"""What the storage keeps of an attempt: its trial, and on which machine; and of a study."""


@dataclass
class Claim:
    """The right to work on a trial, which ends with the process.

    trial: its schedule as it is stored, in memory; what it is told decides whether it is given up.
    """

    number: int
    trial: Trial
    directory: Path
    attempt_id: int
    lock: TextIOWrapper

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.lock.close()


class Study:
    """The trials of a plan. Every process opens its own; `folder` is that of all studies."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self._folder = plan, folder
        self.directory = folder / plan.name
        self._storage = open_storage(plan.tune, folder)
        self._create()
        self._id = self._storage.get_study_id_from_name(plan.name)
        self._storage.set_study_user_attr(self._id, IDENTITY, plan.identity)
        self._optuna_study = optuna.load_study(study_name=plan.name, storage=self._storage)
        self._place = _identify(folder)

    def close(self) -> None:
        """Close all connections to the storage."""
        self._storage.engine.dispose()

    def list_finished(self) -> dict[int, FrozenTrial]:
        """Return the finished trials of the plan, in their order."""
        trials = _choose_sound(self._read_attempts())
        return {
            number: trials[number]
            for number in range(self.plan.tune.num_trials)
            if number in trials and trials[number].state in FINISHED
        }

    def claim(self) -> Claim | None:
        """Take up the first trial that may begin and that nobody works on; None if there is none."""
        with hold(self._folder / "claim.lock"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                fail_stale_trials(self._optuna_study)
            for number in self._list_ready():
                directory = self._place_trial(number)
                lock = try_lock(directory.with_suffix(".lock"))
                if lock is not None:
                    claim = self._begin(number, directory, lock)
                    if claim is not None:
                        return claim
                    lock.close()
        return None

    def beat(self, claim: Claim) -> None:
        """Say that somebody works on a trial."""
        self._storage.record_heartbeat(claim.attempt_id)

    def report(self, claim: Claim, step: int, value: float) -> None:
        """Store the value of a trial after a step.

        Raises:
            UpdateFinishedTrialError: the attempt was given up meanwhile: it seemed dead.
        """
        self._storage.set_trial_intermediate_value(claim.attempt_id, step, value)

    def finish(self, claim: Claim, state: TrialState, value: float | None = None) -> None:
        """Store how a trial ended, and remove its checkpoints.

        Raises:
            UpdateFinishedTrialError: as of `report`.
        """
        with hold(self._folder / "claim.lock"):  # SQLite does not compare and set in one step
            values = None if value is None else [value]
            self._storage.set_trial_state_values(claim.attempt_id, state, values)
        shutil.rmtree(claim.directory, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what is not needed any more: folders and attempts beside finished trials.

        Also the folders that other studies of the task were left with, where nobody trains; they are
        begun anew if such a study goes on.
        """
        with hold(self._folder / "claim.lock"):
            for number, attempts in self._read_attempts().items():
                if not any(row.state in FINISHED for row in attempts):
                    continue
                for row in attempts:
                    if row.state == TrialState.WAITING:
                        with contextlib.suppress(UpdateFinishedTrialError):  # another was faster
                            self._fail(row)
                shutil.rmtree(self._place_trial(number), ignore_errors=True)
            for directory in self._folder.glob(f"{self.plan.task}-*/{TRIAL}*[0-9]"):
                if directory.parent != self.directory:
                    _remove_left(directory)

    def read_others(self) -> dict[str, str]:
        """Return name and identity of the other studies of the task, the newest last."""
        summaries = optuna.get_all_study_summaries(self._storage)
        begun = [summary for summary in summaries if summary.datetime_start is not None]
        return {
            summary.study_name: summary.user_attrs[IDENTITY]
            for summary in sorted(begun, key=lambda summary: str(summary.datetime_start))
            if summary.study_name.startswith(f"{self.plan.task}-")
            and summary.study_name != self.plan.name
            and IDENTITY in summary.user_attrs
        }

    def _place_trial(self, number: int) -> Path:
        return self.directory / f"{TRIAL}{number:04d}"

    def _create(self) -> None:
        with contextlib.suppress(DuplicatedStudyError):
            self._storage.create_new_study([StudyDirection.MAXIMIZE], self.plan.name)

    def _read_attempts(self) -> Attempts:
        """Return all attempts at each trial, in their order."""
        found: Attempts = {}
        for row in self._optuna_study.get_trials(deepcopy=False):
            if NUMBER in row.user_attrs:  # else somebody else's, as of the dashboard
                found.setdefault(row.user_attrs[NUMBER], []).append(row)
        return found

    def _list_ready(self) -> Sequence[int]:
        """Return the unfinished trials that know all that they are to know."""
        num_trials, finished = self.plan.tune.num_trials, self.list_finished()
        unfinished = [number for number in range(num_trials) if number not in finished]
        if not unfinished:
            return []
        end = unfinished[0] + self.plan.tune.num_parallel
        return [number for number in unfinished if number < end]

    def _begin(self, number: int, directory: Path, lock: TextIOWrapper) -> Claim | None:
        """Start an attempt at a trial whose lock is held; None if that is not possible now."""
        attempts = self._read_attempts()
        if any(earlier not in attempts for earlier in range(number)):
            return None  # one before it is being taken up
        row = _choose_sound(attempts).get(number)
        if row is not None and row.state == TrialState.RUNNING:
            if row.user_attrs.get(PLACE) != self._place:
                return None  # another machine works on it
            # A worker of this machine did, and the lock is free: it is dead.
            self._fail(row)
            row = None
        known = _take_known(attempts, number)
        if row is None:
            begun = attempts[number][0].params if number in attempts else None
            self._add(number, choose(self.plan, number, known, begun))
            row = _choose_sound(self._read_attempts())[number]  # another's, if that was faster
        trial = choose(self.plan, number, known, row.params)
        attempt_id = self._find_id(row)
        if not self._start(attempt_id):
            return None
        return Claim(number, trial, directory, attempt_id, lock)

    def _start(self, attempt_id: int) -> bool:
        """Start a waiting attempt; return whether nobody else was faster."""
        self._storage.record_heartbeat(attempt_id)  # first: without one it would never be stale
        try:
            if not self._storage.set_trial_state_values(attempt_id, TrialState.RUNNING):
                return False
        except UpdateFinishedTrialError:  # another machine has even finished it
            return False
        self._storage.set_trial_user_attr(attempt_id, PLACE, self._place)
        return True

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
        self._storage.set_trial_state_values(self._find_id(row), TrialState.FAIL)

    def _find_id(self, row: FrozenTrial) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, row.number)


def read_results(plan: Plan, folder: Path) -> dict[int, FrozenTrial]:
    """Return the finished trials of a study, after what they have left is removed.

    Raises:
        StageError: the storage cannot be used.
    """
    with told_plainly(plan.tune, folder):
        study = Study(plan, folder)
        study.tidy()
        trials = study.list_finished()
        study.close()
    return trials


def _choose_sound(attempts: Attempts) -> dict[int, FrozenTrial]:
    """Return the attempt that counts of each trial that has one."""
    return {
        number: sound[0]
        for number, rows in attempts.items()
        if (sound := [row for row in rows if row.state != TrialState.FAIL])
    }


def _take_known(attempts: Attempts, number: int) -> dict[int, FrozenTrial]:
    """Return an attempt at each trial before a trial: the one that counts, if there is one."""
    first = {earlier: attempts[earlier][0] for earlier in range(number)}
    sound = _choose_sound(attempts)
    return {earlier: sound.get(earlier, row) for earlier, row in first.items()}


def _remove_left(directory: Path) -> None:
    """Remove the folder of a trial that nobody works on."""
    lock = try_lock(directory.with_suffix(".lock"))
    if lock is not None:
        shutil.rmtree(directory, ignore_errors=True)
        lock.close()


def _identify(folder: Path) -> str:
    """Return the name of this machine's folder, made up once."""
    path = folder / "place"
    with hold(folder / "place.lock"):
        if not path.exists():
            with atomic_path(path) as partial:
                partial.write_text(uuid.uuid4().hex, encoding="ascii")
        return path.read_text(encoding="ascii")
