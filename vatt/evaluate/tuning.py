"""What the studies of `tune` found, for the report: the best schedules, all trials, figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vatt.evaluate.tables import Table, build_table
from vatt.params import SKIPPED, TASKS


class StudyTables(NamedTuple):
    """The study of one task."""

    best: Table
    """The schedule of params.yaml beside the best one, and what was found in words; the title is
    the task."""
    trials: Table
    figures: Sequence[str] = ()
    """SVG elements."""


NO_TRIALS = Table("", (), (), ())


def read_studies(tune_dir: Path) -> list[StudyTables]:
    """Read what the stage `tune` wrote for the tasks that it has been run for."""
    return [read_study(task, tune_dir / task) for task in TASKS if (tune_dir / task).is_dir()]


def read_study(task: str, folder: Path) -> StudyTables:
    """Read what the stage `tune` wrote for a task."""
    skipped = folder / SKIPPED
    if skipped.exists():
        reason = f"Left out: {_read_json(skipped)['reason']}."
        return StudyTables(Table(task, (), (), (), (reason,)), NO_TRIALS)
    best, rows = _read_json(folder / "best.json"), _read_json(folder / "trials.json")["trials"]
    if best["value"] is None:
        note = "Nothing was tried (tune.num_trials is 1): the schedule of params.yaml stays."
        return StudyTables(Table(task, (), (), (), (note,)), NO_TRIALS)
    keys = sorted(rows[0]["schedule"])
    schedules = [_list_values(row["schedule"], keys) for row in rows]
    chosen = _list_values(best["schedule"], keys)
    pairs = zip(keys, schedules[0], chosen, strict=True)
    trials = [
        [row["state"], row["trial"], _format_score(row["value"]), *schedule]
        for row, schedule in zip(rows, schedules, strict=True)
    ]
    note = _describe(best, rows)
    return StudyTables(
        build_table(task, ("schedule",), ("params.yaml", "best"), pairs, (note,)),
        build_table(best["study"], ("state",), ("trial", "value", *keys), trials),
        [_read_svg(path) for path in sorted(folder.glob("*.svg"))],
    )


def _describe(best: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Say which trial is the best, and what the first, the schedule of params.yaml, reached."""
    score, own = _format_score(best["value"]), _format_score(rows[0]["value"])
    ending = f", with the schedule of params.yaml {own}" if own else ""
    if best["trial"] == 0:
        ending = ", the schedule of params.yaml"
    return f"Trial {best['trial']} of {len(rows)} is the best: {score}{ending}."


def _format_score(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"


def _list_values(schedule: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    values = [schedule[key] for key in keys]
    return [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_svg(path: Path) -> str:
    """Return the <svg> element alone, without what HTML does not allow before it."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
