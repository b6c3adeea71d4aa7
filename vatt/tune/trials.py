"""What a study is: its name follows from all that decides its result.

What a study found, in files: the best schedule, all trials, figures.

Which schedule a trial has, and when it is given up: by the results of the trials before it.

A trial knows the results of all but the `num_parallel` - 1 trials before it, and knows what these
few are trying. So a study is the same however many workers make it and whichever are killed.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.params import TaskName, TuneParams
from vatt.params.tune import OneOf, Values
from vatt.tune.figures import draw_study

CODE = "code"
"""Of `Plan.training`: what stands for all of a training, its code included."""


@dataclass(frozen=True)
class Plan:
    """A study to be made.

    seed: of the choice of schedules. own: the schedule of params.yaml, the first
    trial. training: what decides the result of a training besides its schedule, by name.
    """

    task: TaskName
    seed: int
    tune: TuneParams
    own: Mapping[str, Any]
    training: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of the study, another one whenever its results may be others."""
        return f"{self.task}-{hashlib.blake2b(self.identity.encode(), digest_size=8).hexdigest()}"

    @property
    def space(self) -> dict[str, Values]:
        """What is searched."""
        return self.tune.find_space(self.task)

    @property
    def identity(self) -> str:
        """As JSON: what the name stands for. The number of trials is not in it: it may grow."""
        tune = self.tune.model_dump(
            mode="json", include={"num_random_trials", "num_parallel", "prune"}
        )
        space = {name: values.model_dump() for name, values in self.space.items()}
        parts = {"seed": self.seed, "schedule": dict(self.own), "space": space}
        parts |= {**tune, **self.training}
        return json.dumps({**parts, "optuna": optuna.__version__}, sort_keys=True)

    def list_changes(self, identity: str) -> list[str]:
        """Return what differs from another study, by name; CODE only where nothing else does."""
        ours, theirs = _name_parts(self.identity), _name_parts(identity)
        changed = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
        return sorted(changed - {CODE} or changed)

    def derive_seed(self, number: int) -> int:
        """Return the seed that the schedule of a trial is drawn with."""
        text = f"{self.seed}/{self.task}/{number}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())

    def list_distributions(self) -> dict[str, BaseDistribution]:
        """Return the search space for Optuna."""
        found: dict[str, BaseDistribution] = {}
        for name, values in sorted(self.space.items()):
            if isinstance(values, OneOf):
                found[name] = CategoricalDistribution(values.choices)
            elif isinstance(self.own[name], int):
                found[name] = IntDistribution(int(values.low), int(values.high), log=values.log)
            else:
                found[name] = FloatDistribution(values.low, values.high, log=values.log)
        return found


def _name_parts(identity: str) -> dict[str, Any]:
    """Return what an identity stands for; the keys of a section are named `section.key`."""
    found: dict[str, Any] = {}
    for section, content in json.loads(identity).items():
        if isinstance(content, dict):
            found |= {f"{section}.{name}": value for name, value in content.items()}
        else:
            found[section] = content
    return found


def choose(
    plan: Plan,
    number: int,
    attempts: Mapping[int, FrozenTrial],
    stored: Mapping[str, Any] | None = None,
) -> Trial:
    """Return a trial of a study in memory, with its schedule.

    Args:
        plan: of the study.
        number: of the trial, from 0.
        attempts: an attempt at each trial before it; those that it may know are finished.
        stored: its schedule, if it was chosen before: another version of a library, or another
            machine, might draw another one.
    """
    known = optuna.create_study(
        direction="maximize",
        sampler=TPESampler(
            n_startup_trials=plan.tune.num_random_trials, seed=plan.derive_seed(number)
        ),
        pruner=_build_pruner(plan),
    )
    for earlier in range(number):
        is_known = earlier <= number - plan.tune.num_parallel
        known.add_trial(copy_trial(attempts[earlier], with_result=is_known))
    distributions = plan.list_distributions()
    if stored is None and number == 0:
        stored = {name: plan.own[name] for name in distributions}
    if stored is not None:
        known.enqueue_trial(dict(stored))
    return known.ask(distributions)


def copy_trial(trial: FrozenTrial, *, with_result: bool) -> FrozenTrial:
    """Return a trial as it is, or as it was when it began."""
    state = trial.state if with_result else TrialState.RUNNING
    result: dict[str, Any] = {}
    if with_result:
        result = {"value": trial.value, "intermediate_values": trial.intermediate_values}
    return optuna.create_trial(
        state=state, params=trial.params, distributions=trial.distributions, **result
    )


def _build_pruner(plan: Plan) -> BasePruner:
    prune = plan.tune.prune
    if prune is None:
        return NopPruner()
    return MedianPruner(n_startup_trials=prune.min_trials, n_warmup_steps=prune.min_steps)


BEST_NAME, TRIALS_NAME = "best.json", "trials.json"


def keep_own(plan: Plan) -> dict[int, FrozenTrial]:
    """Return the schedule of params.yaml as a trial that was not begun."""
    distributions = plan.list_distributions()
    params = {name: plan.own[name] for name in distributions}
    state = TrialState.WAITING
    return {0: optuna.create_trial(state=state, params=params, distributions=distributions)}


def write_outcome(plan: Plan, trials: Mapping[int, FrozenTrial], out_dir: Path) -> dict[str, Any]:
    """Write what trials found into a folder, and return the metrics.

    best.json holds the whole best schedule; of equal ones the first, so that the schedule of
    params.yaml stays unless another is better. Its value is null where nothing was tried. trials.json
    holds every trial.

    Raises:
        StageError: every trial was given up.
    """
    values = {number: row.value for number, row in trials.items() if row.value is not None}
    num_pruned = sum(row.state == TrialState.PRUNED for row in trials.values())
    if num_pruned == len(trials):
        raise StageError(
            f"none of the {len(trials)} trials could be trained to the end; a lower "
            f"finetune.{plan.task}.schedule.learning_rate may help"
        )
    best = max(values, key=lambda number: values[number], default=0)
    schedule, value = {**plan.own, **trials[best].params}, values.get(best)
    found = {"schedule": schedule, "value": value, "trial": best, "study": plan.name}
    write_json(out_dir / BEST_NAME, {**found, "own": dict(plan.own)})
    rows = [_describe(number, row) for number, row in trials.items()]
    write_json(out_dir / TRIALS_NAME, {"study": plan.name, "trials": rows})
    return {
        "value": value,
        "trial": best,
        "own_value": values.get(0),
        "num_trials": len(trials),
        "num_pruned": num_pruned,
        "schedule": schedule,
    }


def write_figures(trials: Mapping[int, FrozenTrial], out_dir: Path) -> None:
    """Write `<figure>.svg` for each figure that there are enough trials for."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials([copy_trial(row, with_result=True) for row in trials.values()])
    for name, figure in draw_study(study).items():
        (out_dir / f"{name}.svg").write_text(figure, encoding="utf-8")


def _describe(number: int, row: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": number,
        "state": row.state.name.lower(),
        "value": row.value,
        "schedule": row.params,
        "steps": [
            {"step": step, "value": value if math.isfinite(value) else None}
            for step, value in sorted(row.intermediate_values.items())
        ],
    }
