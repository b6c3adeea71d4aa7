"""Search spaces in params.yaml: what is refused, and by what name; and how they are searched.

Schedules follow from what a trial may know, and from nothing else.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import FrozenTrial, Trial, TrialState

from tests.params.test_params import DEFAULTS, ROOT, changed, refusal
from tests.tune.conftest import OWN, compute_value, make_plan
from vatt.params import Params, load_params
from vatt.params.tune import Between
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
    for other in range(number):
        worst, best = (
            choose(plan, number, {**trials, other: finish(trials[other], *[value] * 3)})
            for value in (-1.0 - other, 100.0)
        )
        is_known = other <= number - num_parallel
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


FACTOR = {"low": 0.8, "high": 0.95}
WIDE = {"low": 0.01, "high": 1.0, "log": True}
SPACES: list[tuple[dict[str, Any], str]] = [
    ({"speed": {"low": 0, "high": 1}}, "space.speed: is no key of a schedule; there are learning"),
    ({"momentum": {"low": 0.0, "high": 1.0}}, "space.momentum: 1.0: Input should be less than 1"),
    ({"warmup_steps": {"low": 0, "high": 1.5}}, "space.warmup_steps: 1.5: Input should be a valid"),
    ({"shape": {"choices": ["square"]}}, "space.shape: 'square': Input should be 'cosine'"),
    ({"learning_rate": {"low": 0.1, "high": 0.1}}, "low = 0.1 must be below high = 0.1"),
    ({"weight_decay": {"low": 0.0, "high": 0.1, "log": True}}, "log = true needs low above 0"),
    ({"momentum": {"low": 0.5}}, "tune.space.momentum.between.high: is missing"),
    ({"momentum": {"choices": []}}, "should have at least 1 item"),
    ({}, "should have at least 1 item"),
]
TASK_SPACES: list[tuple[dict[str, Any], str]] = [
    ({"sound": {}}, "tune.task_space.sound"),
    ({"audio": {"speed": None}}, "task_space.audio.speed: is no key of a schedule"),
    ({"audio": {"momentum": {"low": 0.5, "high": 1.0}}}, "task_space.audio.momentum: 1.0: Inp"),
    (
        {"audio": dict.fromkeys(DEFAULTS["tune"]["space"])},
        "tune.task_space.audio leaves nothing to search",
    ),
    (
        {"audio": {"learning_rate": {"choices": [0.7]}}},
        "tune.task_space.audio.learning_rate does not hold finetune.audio.schedule.learning_ra",
    ),
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({"tune.space": space}, expected) for space, expected in SPACES),
    *(({"tune.task_space": space}, expected) for space, expected in TASK_SPACES),
    (
        {
            "tune.space": {"learning_rate": {"low": 1.0e-4, "high": 1.0, "log": True}},
            "finetune.audio.schedule.learning_rate": 2.0,
        },
        "tune.space.learning_rate does not hold finetune.audio.schedule.learning_rate = 2.0",
    ),
    (
        {"tune.space": {"warmup_steps": {"low": 0, "high": 40}}, "finetune.image.num_steps": 30},
        "tune.space.warmup_steps goes beyond finetune.image.num_steps = 30",
    ),
    (
        {"tune.num_workers": 3, "tune.num_parallel": 2},
        "tune: num_workers = 3 is above num_parallel = 2",
    ),
    *(
        ({"tune.storage": address}, f"tune.storage = '{address}'")
        for address in ("sqlite:///studies.db", "mysql://host/database")
    ),
]


@pytest.mark.parametrize(("changes", "expected"), REFUSED)
def test_what_cannot_be_searched_is_refused(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    message = refusal(tmp_path, changed(changes))
    assert "tune" in message
    assert expected in message


def load(tmp_path: Path, changes: dict[str, Any]) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed(changes)), encoding="utf-8")
    return load_params(path)


def test_each_task_is_held_to_its_own_space(tmp_path: Path) -> None:
    changes = {
        "finetune.audio.schedule.learning_rate": 0.05,
        "tune.task_space": {"audio": {"learning_rate": WIDE, "shape": None, "momentum": FACTOR}},
    }
    tune = load(tmp_path, changes).tune
    assert tune.find_space("video") == tune.space
    found = tune.find_space("audio")
    assert set(found) == {*tune.space, "momentum"} - {"shape"}
    assert found["learning_rate"] == Between(**WIDE)
    changes["finetune.video.schedule.learning_rate"] = 0.05
    expected = "tune.space.learning_rate does not hold finetune.video.schedule.learning_rate = 0.05"
    assert expected in refusal(tmp_path, changed(changes))
    assert "tune.task_space.video" in refusal(tmp_path, changed(changes))


def test_several_labels_are_not_smoothed(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"finetune.audio.multi_label": True}
    message = refusal(tmp_path, changed(changes))
    assert "finetune.audio.schedule.label_smoothing = 0.1 must be 0" in message
    changes["finetune.audio.schedule.label_smoothing"] = 0.0
    message = refusal(tmp_path, changed(changes))
    assert "tune.task_space.audio.label_smoothing must be null" in message
    changes["tune.task_space"] = {"audio": {"label_smoothing": None}}
    assert "label_smoothing" not in load(tmp_path, changes).tune.find_space("audio")


@pytest.mark.parametrize(("value", "is_given_up"), [(0.2, True), (0.6, False)])
def test_the_demo_gives_up_a_trial_by_the_results_before(value: float, is_given_up: bool) -> None:
    params = load_params(ROOT / "params.yaml")
    own = params.finetune.audio.schedule.model_dump()
    plan = Plan("audio", params.run.seed, params.tune, own, {})
    attempts: dict[int, FrozenTrial] = {}
    for number in range(params.tune.num_trials - 1):
        attempts[number] = optuna.create_trial(
            params=choose(plan, number, attempts).params,
            distributions=plan.list_distributions(),
            value=0.8,
            intermediate_values={50: 0.4, 100: 0.8},
        )
    last = choose(plan, params.tune.num_trials - 1, attempts)
    last.report(value, 50)
    assert last.should_prune() == is_given_up
