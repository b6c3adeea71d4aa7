"""What the studies of `tune` found: the best schedules, all trials, figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vatt.params import SKIPPED, TASKS


class Trial(NamedTuple):
    """A schedule that was tried, as text; `value` is empty where the trial was given up."""

    number: int
    state: str
    value: str
    schedule: Sequence[str]


class Study(NamedTuple):
    """A study of one task. keys: what was searched. own, best: values of the keys, as text.

    own is the first trial, the schedule of params.yaml. best_value is empty where nothing was tried.
    figures: SVG elements by name. skipped: why there is no study, and then all else is empty.
    """

    task: str
    name: str = ""
    keys: Sequence[str] = ()
    own: Sequence[str] = ()
    best: Sequence[str] = ()
    own_value: str = ""
    best_value: str = ""
    best_trial: int = 0
    trials: Sequence[Trial] = ()
    figures: Mapping[str, str] = {}
    skipped: str | None = None


def read_studies(tune_dir: Path) -> list[Study]:
    """Read what the stage `tune` wrote, of the tasks that it has been run for."""
    return [read_study(task, tune_dir / task) for task in TASKS if (tune_dir / task).is_dir()]


def read_study(task: str, folder: Path) -> Study:
    """Read what the stage `tune` wrote for a task."""
    skipped = folder / SKIPPED
    if skipped.exists():
        return Study(task, skipped=_read_json(skipped)["reason"])
    best, rows = _read_json(folder / "best.json"), _read_json(folder / "trials.json")["trials"]
    keys = sorted(rows[0]["schedule"])
    trials = [
        Trial(
            row["trial"],
            row["state"],
            _format_value(row["value"]),
            _format_values(row["schedule"], keys),
        )
        for row in rows
    ]
    return Study(
        task,
        name=best["study"],
        keys=keys,
        own=trials[0].schedule,
        best=_format_values(best["schedule"], keys),
        own_value=trials[0].value,
        best_value=_format_value(best["value"]),
        best_trial=best["trial"],
        trials=trials,
        figures={path.stem: _read_svg(path) for path in sorted(folder.glob("*.svg"))},
    )


def _format_value(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _format_values(schedule: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    values = [schedule[key] for key in keys]
    return [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_svg(path: Path) -> str:
    """Return the <svg> element alone, without what HTML does not allow before it."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
