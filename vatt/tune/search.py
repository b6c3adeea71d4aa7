"""The search of a study: what decides it, its space, and Optuna's sampler and pruner.

The sampler (TPE) draws the schedule of a trial; the pruner (median) gives up trials early. A trial
knows the results of all but the `num_parallel` - 1 trials before it, and knows what these few are
trying; nothing else decides its schedule. So a study is the same however many workers make it and
whichever are killed.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import distributions as kinds
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from vatt.params import TaskName, TuneParams
from vatt.params.tune import OneOf

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats and figures are such

CODE = "code"
"""The key of `Plan.training` that stands for all of a training, its code included."""


@dataclass(frozen=True)
class Plan:
    """A study to be made."""

    task: TaskName
    seed: int
    """The seed that schedules are drawn with."""
    tune: TuneParams
    own: Mapping[str, Any]
    """The schedule of params.yaml, which the first trial has."""
    training: Mapping[str, Any]
    """What decides the result of a training besides its schedule, by name."""

    @property
    def name(self) -> str:
        """The name of the study, another one whenever its results may be others."""
        return f"{self.task}-{hashlib.blake2b(self.identity.encode(), digest_size=8).hexdigest()}"

    @property
    def identity(self) -> str:
        """What the name stands for, as JSON; not the number of trials, which may grow."""
        searched = {"num_random_trials", "num_parallel", "prune"}
        space = self.tune.find_space(self.task)
        parts = {
            "seed": self.seed,
            "schedule": dict(self.own),
            "space": {name: values.model_dump() for name, values in space.items()},
            **self.tune.model_dump(mode="json", include=searched),
            **self.training,
            "optuna": optuna.__version__,
        }
        return json.dumps(parts, sort_keys=True)

    def list_changes(self, identity: str) -> list[str]:
        """Return what differs from another study, as `section.key`; CODE if nothing else does."""

        def flatten(identity: str) -> dict[str, Any]:
            return {
                f"{section}.{name}" if name else section: value
                for section, content in json.loads(identity).items()
                for name, value in (
                    content if isinstance(content, dict) and content else {"": content}
                ).items()
            }

        ours, theirs = flatten(self.identity), flatten(identity)
        changed = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
        return sorted(changed - {CODE} or changed)

    def derive_seed(self, number: int) -> int:
        """Return the seed that the schedule of a trial is drawn with."""
        text = f"{self.seed}/{self.task}/{number}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())

    def list_distributions(self) -> dict[str, kinds.BaseDistribution]:
        """Return the search space for Optuna."""
        found: dict[str, kinds.BaseDistribution] = {}
        for name, values in sorted(self.tune.find_space(self.task).items()):
            if isinstance(values, OneOf):
                found[name] = kinds.CategoricalDistribution(values.choices)
            elif isinstance(self.own[name], int):
                low, high = int(values.low), int(values.high)
                found[name] = kinds.IntDistribution(low, high, log=values.log)
            else:
                found[name] = kinds.FloatDistribution(values.low, values.high, log=values.log)
        return found


def choose(
    plan: Plan,
    number: int,
    attempts: Mapping[int, FrozenTrial],
    stored: Mapping[str, Any] | None = None,
) -> Trial:
    """Return a trial of a study in memory, with its schedule; its `should_prune` is the pruner.

    `number` counts from 0, and `attempts` has one at each trial before it; those that it may know
    are finished. `stored` is its schedule if that was chosen before: another version of a library,
    or another machine, might draw another one.
    """
    tune, distributions = plan.tune, plan.list_distributions()
    pruner: BasePruner = NopPruner()
    if tune.prune is not None:
        pruner = MedianPruner(tune.prune.min_trials, tune.prune.min_steps)
    sampler = TPESampler(n_startup_trials=tune.num_random_trials, seed=plan.derive_seed(number))
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    for earlier in range(number):
        trial = attempts[earlier]
        if earlier > number - tune.num_parallel:  # it may still run: its result is not to count
            trial = optuna.create_trial(
                state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions
            )
        study.add_trial(trial)
    if stored is None and number == 0:
        stored = {name: plan.own[name] for name in distributions}
    if stored is not None:
        study.enqueue_trial(dict(stored))
    return study.ask(distributions)
