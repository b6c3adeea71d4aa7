"""Makes studies in a folder: the storage in `cache`, the outcome in `out`, the steps in `log`."""

import time
from pathlib import Path

from tests.tune.trainings import Training, make_plan
from vatt.tune.outcome import write_outcome
from vatt.tune.plan import Plan
from vatt.tune.workers import run_workers

STEP_S = 0.05


def wait_a_moment(_name: str, _step: int) -> None:
    time.sleep(STEP_S)


def make_study(plan: Plan, folder: Path, training: Training, out: str = "out") -> None:
    write_outcome(plan, run_workers(plan, folder / "cache", training), folder / out)


def read_files(folder: Path, out: str = "out") -> dict[str, bytes]:
    """Return what the study wrote, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / out).iterdir())}


def make_slowly(folder: Path, num_workers: int, out: str = "out") -> None:
    """Make a study whose every step takes a moment, so that kills hit anything."""
    plan = make_plan(num_workers=num_workers, max_restarts=1000)
    make_study(plan, folder, Training(folder / "log", wait_a_moment), out)
