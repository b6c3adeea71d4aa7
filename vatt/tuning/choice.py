"""Which schedule a trial has, and when it is given up: by the results of the trials before it.

A trial knows the results of all but the `num_parallel` - 1 trials before it, and knows what these
few are trying. So a study is the same however many workers make it and whichever are killed.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from vatt.tuning.plan import Plan


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
