"""Which run a training goes on with, and which older one it does not continue, in words.

Beside its checkpoints a run keeps the facts that name it, so that a later one can say what differs.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vatt.core.files import write_json
from vatt.train.checkpoint import MARKER
from vatt.train.recipe import SUMS_ONLY, Job, list_facts

Facts = Mapping[str, Mapping[str, Any]]
"""What `list_facts` returns."""
RECORD = "facts.json"
MAX_SHOWN = 6
"""The differences that are listed; more of them are counted."""
MAX_LENGTH = 40
"""The characters of a value that are shown."""


def open_runs(jobs: Sequence[Job]) -> None:
    """Record what each run is named by; say of a new one which older run it does not continue.

    That is the one with the fewest differences, and of several the latest.
    """
    facts = [list_facts(job.recipe, job.initial_weights) for job in jobs]
    # All before the first is recorded: runs that are opened together are not older ones.
    messages = [_explain(job, each) for job, each in zip(jobs, facts, strict=True)]
    for job, each, message in zip(jobs, facts, messages, strict=True):
        write_json(job.directory / RECORD, each)
        if message is not None:
            print(f"{job.recipe.section}: {message}", file=sys.stderr)


def describe_resume(job: Job, step: int, launch: Mapping[str, Any] | None) -> str | None:
    """Return in words with which step a run goes on, and what of `launch` differs from before.

    None if there is nothing to say: it begins, or it is finished as it would be now. `launch` holds
    its keys SUMS_ONLY as they were, None in old checkpoints.
    """
    now = job.recipe.launch.model_dump(include=SUMS_ONLY)
    changes = list_changes(_name_launch(launch or now), _name_launch(now))
    num_steps = job.recipe.training.num_steps
    until = f"; until there {', '.join(changes)}" if changes else ""
    if step == num_steps and changes:
        return f"is finished, and not trained again{until}"
    if step in (0, num_steps):
        return None
    return f"goes on from step {step} of {num_steps}{until}"


def list_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words which settings differ, by name."""

    def show(settings: Mapping[str, Any], name: str) -> str:
        text = json.dumps(settings[name], ensure_ascii=False) if name in settings else "not there"
        return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."

    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name} was {show(before, name)}, is {show(now, name)}" for name in names]


def _name_launch(launch: Mapping[str, Any]) -> dict[str, Any]:
    return {f"launch.{name}": launch[name] for name in sorted(launch)}


def _explain(job: Job, facts: Facts) -> str | None:
    """Return which older run a new one does not continue, and why; None if there is none."""
    if job.directory.exists():
        return None
    older = []
    for folder in job.directory.parent.glob("*/"):
        if (progress := _find_progress(folder)) is not None:
            reasons = _compare(folder / RECORD, facts)
            order = (len(reasons) or math.inf, -folder.stat().st_mtime)
            older.append((order, f"run {folder.name}, {progress}", reasons))
    if not older:
        return None
    _, run, reasons = min(older)
    more = f" and {len(reasons) - MAX_SHOWN} more" if len(reasons) > MAX_SHOWN else ""
    why = "; ".join(reasons[:MAX_SHOWN]) or "it is older than the record of what differs"
    return f"a new run, {job.directory.name}: {run}, is not continued: {why}{more}"


def _compare(record: Path, now: Facts) -> list[str]:
    """Return in words what differs from an older run; nothing if it left no record of use."""
    try:
        old: Facts = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    names = sorted({**old["digests"], **now["digests"]})
    differ = [n for n in names if old["digests"].get(n) != now["digests"].get(n)]
    return [*list_changes(old["settings"], now["settings"]), *(f"other {n}" for n in differ)]


def _find_progress(folder: Path) -> str | None:
    """Return in words how far a run came; None if it left nothing to go on from."""
    if (folder / "weights.safetensors").is_file():
        return "which is finished"
    steps = [
        int(path.parent.name.removeprefix("step-")) for path in folder.glob(f"step-*/{MARKER}")
    ]
    return f"which came to step {max(steps)}" if steps else None
