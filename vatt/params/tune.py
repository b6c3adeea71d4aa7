"""Parameters of tuning: the search for a schedule of fine-tuning (Optuna)."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from vatt.params.finetune import ScheduleParams, TaskName
from vatt.params.section import Section

Number = int | float


class Between(Section):
    """Numbers from `low` to `high`, both included; whole ones where the key takes whole ones."""

    low: Number
    high: Number
    log: bool = False
    """Whether equal factors are equally likely, rather than equal differences."""

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
    """When to end a trial whose best value is below the median of whole trials at that step."""

    min_trials: int = Field(ge=1)
    """A trial that knows fewer whole trials is never ended early."""
    min_steps: int = Field(ge=0)
    """No trial is ended before so many steps of training."""


class TuneParams(Section):
    """How schedules are searched for, in a study for each task."""

    num_trials: int = Field(ge=1)
    """The number of schedules to try; the first is that of `finetune`."""
    num_random_trials: int = Field(ge=1)
    """A trial that knows fewer results than this is drawn at random; later ones learn from them
    (TPE)."""
    num_parallel: int = Field(ge=1)
    """The trials that may run at once, on all machines. Each is chosen, and ended early, by the
    results of all but the `num_parallel` - 1 before it, so that neither speed nor kills change a
    study."""
    num_workers: int = Field(ge=1)
    """The processes of this machine that train one schedule each; at most `num_parallel`."""
    threads_per_worker: int = Field(ge=1)
    """The threads of torch in each worker, on the CPU."""
    storage: Annotated[str, Field(pattern=r"^postgresql(\+\w+)?://")] | None
    """The place of the studies: a PostgreSQL server, which several machines can share; null is an
    SQLite file in .cache/tune."""
    heartbeat_s: int = Field(ge=1)
    """The time between two signs of life of a worker in the storage. After three silent ones
    another machine takes its trial up; on the same machine that happens within seconds."""
    max_restarts: int = Field(ge=0)
    """The number of times that workers that died are started again."""
    prune: PruneParams | None
    """Null trains every trial to its end."""
    space: dict[str, Values] = Field(min_length=1)
    """The keys of a schedule that are searched; all others stay as they are in `finetune`."""
    task_space: dict[TaskName, dict[str, Values | None]]
    """The keys that replace those of `space`, or add to them, for a task; null leaves one out."""

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.num_workers > self.num_parallel:
            raise ValueError(
                f"num_workers = {self.num_workers} is above num_parallel = {self.num_parallel}: "
                "the others would have nothing to do"
            )
        return self

    @model_validator(mode="after")
    def _check_spaces(self) -> Self:
        spaces: dict[str, Mapping[str, Values | None]] = {"space": self.space}
        spaces |= {f"task_space.{task}": space for task, space in self.task_space.items()}
        problems = []
        for place, space in spaces.items():
            for name, values in space.items():
                if name not in ScheduleParams.model_fields:
                    known = ", ".join(ScheduleParams.model_fields)
                    problems.append(f"{place}.{name}: is no key of a schedule; there are {known}")
                    continue
                for value in () if values is None else values.list_ends():
                    problem = _find_problem(name, value)
                    if problem is not None:
                        problems.append(f"{place}.{name}: {value!r}: {problem}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def find_space(self, task: TaskName) -> dict[str, Values]:
        """Return what is searched for a task."""
        space = {**self.space, **self.task_space.get(task, {})}
        return {name: values for name, values in space.items() if values is not None}

    def name_key(self, task: TaskName, key: str) -> str:
        """Return where params.yaml says what is searched of a key for a task."""
        own = self.task_space.get(task, {})
        return f"tune.task_space.{task}.{key}" if key in own else f"tune.space.{key}"


def _find_problem(name: str, value: Any) -> str | None:
    """Return why a key of a schedule does not take a value, or None."""
    try:
        ScheduleParams.model_validate({name: value}, strict=True)
    except ValidationError as error:  # also of the keys that are missing here
        found = [problem["msg"] for problem in error.errors() if problem["loc"] == (name,)]
        return found[0] if found else None
    return None
