"""Parameters of tuning: the search for a schedule of fine-tuning (Optuna)."""

from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from vatt.params.finetune import ScheduleParams
from vatt.params.section import Section

Number = int | float


class Between(Section):
    """Numbers from `low` to `high`, both included; whole ones where the key takes whole ones."""

    low: Number
    high: Number
    log: bool = False
    """Every factor is equally likely, not every difference."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log = true needs low above 0, not {self.low}")
        return self

    def holds(self, value: Any) -> bool:
        """Return whether a value may be drawn."""
        return bool(self.low <= value <= self.high)

    def list_ends(self) -> tuple[Any, ...]:
        """Return the values that must be possible, so that all are."""
        return self.low, self.high


class OneOf(Section):
    """Some values, in any order."""

    choices: tuple[bool | Number | str, ...] = Field(min_length=1)

    def holds(self, value: Any) -> bool:
        """Return whether a value may be drawn."""
        return value in self.choices

    def list_ends(self) -> tuple[Any, ...]:
        """Return the values that must be possible, so that all are."""
        return self.choices


def _name_kind(values: Any) -> str:
    has_choices = "choices" in values if isinstance(values, dict) else isinstance(values, OneOf)
    return "one of" if has_choices else "between"


Values = Annotated[
    Annotated[Between, Tag("between")] | Annotated[OneOf, Tag("one of")], Discriminator(_name_kind)
]


class PruneParams(Section):
    """A trial below the median of those before it, at the same step, is given up."""

    min_trials: int = Field(ge=1)
    """Whole trials to compare with; before there are as many, none is given up."""
    min_steps: int = Field(ge=0)
    """Before so many steps of training, none is given up."""


class TuneParams(Section):
    """How schedules are searched for; the same for every task."""

    num_trials: int = Field(ge=1)
    """Schedules that are tried. The first one is that of `finetune`: the paper's, or your own."""
    num_random_trials: int = Field(ge=1)
    """The first ones are drawn at random; those that follow learn from the results (TPE)."""
    num_parallel: int = Field(ge=1)
    """Trials that may run at once, on all machines. Each is chosen, and given up, by the results of
    all but the `num_parallel` - 1 before it, so that neither speed nor kills change a study."""
    num_workers: int = Field(ge=1)
    """Processes of this machine that train; each trains one schedule."""
    threads_per_worker: int = Field(ge=1)
    """Of torch, on the CPU."""
    storage: Annotated[str, Field(pattern=r"^(postgresql|mysql)(\+\w+)?://")] | None
    """Where studies are kept: a PostgreSQL or MySQL server, which several machines can share; null
    is an SQLite file in .cache/tune."""
    heartbeat_s: int = Field(ge=1)
    """How often a worker says in the storage that it is alive; after three silent times another
    machine takes its trial up. On the same machine that happens at once."""
    max_restarts: int = Field(ge=0)
    """Workers that died are started again so often."""
    prune: PruneParams | None
    """null: every trial is trained to the end."""
    space: dict[str, Values] = Field(min_length=1)
    """What is searched: keys of a schedule. The others stay as they are in `finetune`."""

    @model_validator(mode="after")
    def _check_space(self) -> Self:
        problems = []
        for name, values in self.space.items():
            if name not in ScheduleParams.model_fields:
                known = ", ".join(ScheduleParams.model_fields)
                raise ValueError(f"space.{name}: is no key of a schedule; there are {known}")
            problems += [
                f"space.{name}: {value!r}: {problem}"
                for value in values.list_ends()
                if (problem := _find_problem(name, value)) is not None
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _find_problem(name: str, value: Any) -> str | None:
    """Return why a key of a schedule does not take a value, or None."""
    try:
        ScheduleParams.model_validate({name: value}, strict=True)
    except ValidationError as error:  # also of the keys that are missing here
        found = [problem["msg"] for problem in error.errors() if problem["loc"] == (name,)]
        return found[0] if found else None
    return None
