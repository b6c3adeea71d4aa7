"""Studies of a training that takes no time: its value follows from its schedule alone.

A study has its storage in `cache`, its outcome in `out`, and the computed steps in `log`.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from vatt.params import TuneParams
from vatt.tune.outcome import write_outcome
from vatt.tune.search import Plan
from vatt.tune.study import NUMBER, Study
from vatt.tune.workers import OnValidation, run_workers

NUM_STEPS = 6
PATIENCE_S = 240.0
OWN = {"learning_rate": 0.01, "warmup_steps": 5, "shape": "cosine", "momentum": 0.9}
TUNE = TuneParams.model_validate(
    {
        "num_trials": 8,
        "num_random_trials": 3,
        "num_parallel": 3,
        "num_workers": 1,
        "threads_per_worker": 1,
        "storage": None,
        "heartbeat_s": 60,
        "max_restarts": 0,
        "prune": {"min_trials": 2, "min_steps": 2},
        "space": {
            "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
            "warmup_steps": {"low": 0, "high": 20},
            "shape": {"choices": ["cosine", "linear"]},
        },
        "task_space": {},
    }
)


def make_plan(**changes: Any) -> Plan:
    """A plan whose parameters of `tune` are changed."""
    return Plan("video", 7, TUNE.model_copy(update=changes), OWN, {"data": "abc", "code": 1})


def compute_value(schedule: Mapping[str, Any], step: int) -> float:
    distance = math.log10(schedule["learning_rate"]) + 2.5
    bonus = 0.1 if schedule["shape"] == "linear" else 0.0
    return float(step * (math.exp(-(distance**2)) + bonus + schedule["warmup_steps"] / 100))


def read_log(folder: Path) -> list[tuple[str, int]]:
    """Return the computed steps: the names of the trials' folders, and the steps."""
    path = folder / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def make_study(
    plan: Plan, folder: Path, accident: Callable[[str, int], object] | None = None, out: str = "out"
) -> None:
    """Make a study by trainings with a checkpoint after each step.

    Before each step an accident is called with the name of the trial's folder and the step.
    """

    def train(schedule: Mapping[str, Any], directory: Path, on_validation: OnValidation) -> None:
        checkpoint = directory / "step"
        done = int(checkpoint.read_text()) if checkpoint.exists() else 0
        for step in range(1, done + 1):
            on_validation(step, compute_value(schedule, step))
        for step in range(done + 1, NUM_STEPS + 1):
            if accident is not None:
                accident(directory.name, step)
            with (folder / "log").open("a") as log:
                log.write(f"{directory.name} {step}\n")
            on_validation(step, compute_value(schedule, step))
            checkpoint.with_suffix(".new").write_text(str(step))
            checkpoint.with_suffix(".new").replace(checkpoint)

    write_outcome(plan, run_workers(plan, folder / "cache", train), 64, folder / out)


def make_slowly(plan: Plan, folder: Path, out: str = "out") -> None:
    """Make a study whose every step takes a moment, so that kills hit anything."""
    make_study(plan, folder, lambda _name, _step: time.sleep(0.05), out)


def read_files(folder: Path, out: str = "out") -> dict[str, bytes]:
    """Return what the study wrote, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / out).iterdir())}


def check_rows(plan: Plan, folder: Path) -> None:
    """No trial is lost, left running or counted twice."""
    with Study.open(plan, folder) as study:
        rows = [row for rows in study.read_attempts().values() for row in rows]
    finished = [row for row in rows if row.state != TrialState.FAIL]
    assert {row.state for row in finished} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert sorted(row.user_attrs[NUMBER] for row in finished) == list(range(plan.tune.num_trials))
    whole = [row for row in finished if row.state == TrialState.COMPLETE]
    assert all(set(row.intermediate_values) == set(range(1, NUM_STEPS + 1)) for row in whole)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a study that one worker made in peace, to compare those with accidents with."""
    folder = tmp_path_factory.mktemp("peace")
    make_study(make_plan(), folder)
    return read_files(folder)
