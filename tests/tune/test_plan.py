"""Schedules follow from what a trial may know, and from nothing else."""

import math
from dataclasses import replace

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from tests.tune.trainings import OWN, compute_value, make_plan
from vatt.tune.search import Plan, choose


def finish(trial: FrozenTrial | Trial, *values: float) -> FrozenTrial:
    """Return a trial with these values at its steps, from 1 on."""
    return optuna.create_trial(
        params=trial.params,
        distributions=trial.distributions,
        value=values[-1],
        intermediate_values=dict(enumerate(values, start=1)),
    )


def make_study(plan: Plan) -> dict[int, FrozenTrial]:
    """Choose all trials; their values follow from their schedules."""
    trials: dict[int, FrozenTrial] = {}
    for number in range(plan.tune.num_trials):
        chosen = choose(plan, number, trials)
        schedule = {**OWN, **chosen.params}
        trials[number] = finish(chosen, *(compute_value(schedule, step) for step in range(1, 4)))
    return trials


def test_values_lie_in_the_space() -> None:
    for trial in make_study(make_plan(num_trials=20)).values():
        assert 1e-4 <= trial.params["learning_rate"] <= 1.0
        assert trial.params["warmup_steps"] in range(21)
        assert trial.params["shape"] in ("cosine", "linear")


def test_the_same_plan_gives_the_same_study_and_another_seed_another() -> None:
    plan = make_plan()
    first, again = make_study(plan), make_study(plan)
    assert [trial.params for trial in first.values()] == [trial.params for trial in again.values()]
    other = make_study(replace(plan, seed=8))
    assert first[0].params == other[0].params
    assert first[1].params != other[1].params


@pytest.mark.parametrize("num_parallel", [1, 3])
def test_a_trial_knows_results_of_all_but_those_that_run_beside_it(num_parallel: int) -> None:
    plan = make_plan(num_parallel=num_parallel, num_trials=12)
    trials, number = make_study(plan), 11
    for changed in range(number):
        worst, best = (
            choose(plan, number, {**trials, changed: finish(trials[changed], *[value] * 3)})
            for value in (-1.0 - changed, 100.0)
        )
        is_known = changed <= number - num_parallel
        assert (worst.params != best.params) == is_known


def test_what_runs_beside_it_has_a_part_in_its_choice() -> None:
    plan = make_plan(num_parallel=2, num_trials=12)
    trials = make_study(plan)
    moved = optuna.create_trial(
        state=TrialState.RUNNING,
        params={"learning_rate": 0.9, "warmup_steps": 20, "shape": "cosine"},
        distributions=trials[10].distributions,
    )
    assert choose(plan, 11, trials).params != choose(plan, 11, {**trials, 10: moved}).params


def is_given_up(values: list[float], known: list[list[float]]) -> bool:
    """Whether a trial of these values is given up at the last of them, beside whole trials."""
    plan = make_plan(num_parallel=1)
    first = choose(plan, 0, {})
    rows = {number: finish(first, *line) for number, line in enumerate(known)}
    trial = choose(plan, len(known), rows)
    for step, value in enumerate(values, start=1):
        trial.report(value, step)
    return trial.should_prune()


def test_what_is_below_the_median_at_its_step_is_given_up() -> None:
    known = [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]]
    assert is_given_up([1.5, 1.5, 1.5], known)
    assert not is_given_up([2.5, 2.5, 2.5], known)
    assert is_given_up([1.5, 1.5, math.nan], known)
    assert not is_given_up([1.5], known)  # too early
    assert not is_given_up([1.5, 1.5, 1.5], known[:1])  # too few
