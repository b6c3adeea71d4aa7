"""What a study is: its name follows from all that decides its result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from vatt.params import TaskName, TuneParams
from vatt.params.tune import OneOf, Values

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
