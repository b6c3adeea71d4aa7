"""Who may work on which trial, also when those who did are dead, and what is counted."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from tests.tune.conftest import OWN, PATIENCE_S, make_plan
from vatt.tune.search import Plan
from vatt.tune.study import SQLITE_NAME, Claim, Study, create_storage


def create_study(folder: Path, plan: Plan | None = None) -> Study:
    plan = plan or make_plan()
    create_storage(plan.tune, folder)
    return Study(plan, folder)


def take(study: Study) -> Claim:
    claim = study.claim()
    assert claim is not None
    return claim


def die(claim: Claim) -> None:
    """What the end of its process does to a claim."""
    claim.lock.close()


def count_rows(study: Study) -> Counter[tuple[int, TrialState]]:
    attempts = study.read_attempts().items()
    return Counter((number, row.state) for number, rows in attempts for row in rows)


def test_workers_take_different_trials_and_no_more_than_may_run_at_once(tmp_path: Path) -> None:
    workers = [create_study(tmp_path) for _ in range(4)]
    claims = [take(worker) for worker in workers[:3]]
    assert [claim.number for claim in claims] == [0, 1, 2]
    assert claims[0].trial.params == {name: OWN[name] for name in workers[0].plan.tune.space}
    assert workers[3].claim() is None
    workers[1].finish(claims[1], TrialState.COMPLETE, 1.0)
    assert workers[3].claim() is None  # the fourth must know the first
    workers[0].finish(claims[0], TrialState.COMPLETE, 2.0)
    assert take(workers[3]).number == 3
    assert list(workers[0].list_finished()) == [0, 1]


def test_what_a_dead_worker_did_is_taken_up_at_once_and_goes_on(tmp_path: Path) -> None:
    study = create_study(tmp_path)
    first = take(study)
    study.report(first, 10, 0.25)
    die(first)
    again = take(create_study(tmp_path))
    assert (again.number, again.directory) == (first.number, first.directory)
    assert again.trial.params == first.trial.params
    assert again.attempt_id != first.attempt_id
    assert count_rows(study) == {(0, TrialState.FAIL): 1, (0, TrialState.RUNNING): 1}


def test_a_worker_killed_before_it_began_leaves_one_attempt(tmp_path: Path) -> None:
    study = create_study(tmp_path)
    claim = take(study)
    die(claim)
    study.storage.set_trial_state_values(claim.attempt_id, TrialState.FAIL)
    study._add(0, claim.trial)  # killed here
    assert take(study).number == 0
    assert count_rows(study) == {(0, TrialState.FAIL): 1, (0, TrialState.RUNNING): 1}
    assert study.list_finished() == {}


def test_who_takes_a_trial_up_trains_the_schedule_that_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = create_study(tmp_path)
    _first, stored = take(study), take(study)
    die(stored)
    study.storage.set_trial_state_values(stored.attempt_id, TrialState.FAIL)
    study._add(1, stored.trial)  # killed again, before it began
    # What another version of numpy draws.
    monkeypatch.setattr(Plan, "derive_seed", lambda _plan, number: 1000 + number)
    for _ in range(2):
        again = take(study)
        assert (again.number, again.trial.params) == (1, stored.trial.params)
        die(again)
    other = create_study(tmp_path / "other")
    _first, drawn = take(other), take(other)
    assert drawn.trial.params != stored.trial.params


def test_folders_of_a_study_that_was_left_are_removed(tmp_path: Path) -> None:
    left, used = create_study(tmp_path, make_plan(num_parallel=2)), create_study(tmp_path)
    claims = [take(left), take(left), take(used)]
    for claim in claims:
        claim.directory.mkdir()
    die(claims[0])
    used.tidy()
    assert [claim.directory.exists() for claim in claims] == [False, True, True]


def test_of_attempts_that_two_machines_add_at_once_one_counts(tmp_path: Path) -> None:
    study = create_study(tmp_path, make_plan(num_trials=1))
    claim = take(study)
    study._add(0, claim.trial)
    study.finish(claim, TrialState.COMPLETE, 1.0)
    assert study.claim() is None
    assert count_rows(study) == {(0, TrialState.COMPLETE): 1, (0, TrialState.WAITING): 1}
    study.tidy()
    assert count_rows(study) == {(0, TrialState.COMPLETE): 1, (0, TrialState.FAIL): 1}


def test_who_was_thought_dead_does_not_count(tmp_path: Path) -> None:
    study = create_study(tmp_path)
    claim = take(study)
    study.storage.set_trial_state_values(claim.attempt_id, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        study.report(claim, 1, 0.5)
    with pytest.raises(UpdateFinishedTrialError):
        study.finish(claim, TrialState.COMPLETE, 0.5)
    assert study.list_finished() == {}


def test_another_machine_waits_until_no_heartbeat_comes(tmp_path: Path) -> None:
    here = create_study(tmp_path / "here", make_plan(num_parallel=1))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / SQLITE_NAME).symlink_to(tmp_path / "here" / SQLITE_NAME)
    claim = take(here)
    here.report(claim, 1, 0.5)
    patient = make_plan(num_parallel=1, heartbeat_s=60)
    assert Study(patient, tmp_path / "there").claim() is None
    there = Study(make_plan(num_parallel=1, heartbeat_s=1), tmp_path / "there")
    deadline_s = time.monotonic() + PATIENCE_S
    while (taken := there.claim()) is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    assert taken.number == 0
    with pytest.raises(UpdateFinishedTrialError):
        here.finish(claim, TrialState.COMPLETE, 0.5)
    there.finish(taken, TrialState.COMPLETE, 0.75)
    assert [row.value for row in here.list_finished().values()] == [0.75]


def test_more_trials_go_on_in_the_same_study(tmp_path: Path) -> None:
    small, large = make_plan(num_trials=1), make_plan(num_trials=2)
    assert small.name == large.name
    study = create_study(tmp_path, small)
    study.finish(take(study), TrialState.COMPLETE, 1.0)
    assert study.claim() is None
    more = create_study(tmp_path, large)
    assert take(more).number == 1
    assert list(more.list_finished()) == [0]


def test_a_plan_that_may_end_otherwise_is_another_study() -> None:
    plan = make_plan()
    others = [
        replace(plan, task="audio"),
        replace(plan, seed=8),
        replace(plan, own={**plan.own, "momentum": 0.5}),
        replace(plan, training={"data": "abd", "code": 1}),
        make_plan(num_parallel=4),
        make_plan(space={name: plan.tune.space[name] for name in ("learning_rate", "shape")}),
    ]
    assert len({plan.name, *(other.name for other in others)}) == 1 + len(others)
    same = make_plan(num_workers=7, heartbeat_s=9, storage="postgresql://somewhere/else")
    assert same.name == plan.name
    assert make_plan(task_space={"audio": {"shape": None}}).name == plan.name
    own = make_plan(task_space={"video": {"shape": None}})
    assert own.list_changes(plan.identity) == ["space.shape"]
    assert set(own.list_distributions()) == {"learning_rate", "warmup_steps"}
    assert others[3].list_changes(plan.identity) == ["data"]
    assert others[5].list_changes(plan.identity) == ["space.warmup_steps"]
    assert others[2].list_changes(plan.identity) == ["schedule.momentum"]
