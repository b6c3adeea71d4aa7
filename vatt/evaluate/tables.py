"""What the network costs, beside the numbers of the paper, as tables of text.

What the studies of `tune` found: the best schedules, all trials, figures.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vatt.model.cost import Cost, Weights, add_costs, count_clip, count_weights
from vatt.model.published import compare_flops, compare_sizes
from vatt.model.vatt import Vatt
from vatt.params import SKIPPED, TASKS, ClipParams


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


def drop_rate(model: Vatt) -> float:
    """Return the share of tokens that the network drops in training."""
    stem: Any = model.video.stem
    rate: float = stem.drop_token.rate
    return rate


def list_costs(model: Vatt, clip: ClipParams) -> list[dict[str, str]]:
    """Weights of each part of the network, and the FLOPs of a clip without and with DropToken."""
    weights = count_weights(model)
    weights["all"] = Weights(*(sum(column) for column in zip(*weights.values(), strict=True)))
    whole, dropped = count_clip(model, clip, 0.0), count_clip(model, clip, drop_rate(model))
    for costs in (whole, dropped):
        costs["all"] = add_costs(costs.values())
    return [
        {
            "name": name,
            "trained": f"{part.trainable / 1e6:,.3f}",
            "frozen": f"{part.frozen / 1e6:,.3f}",
            **_format_cost("whole", whole.get(name)),
            **_format_cost("dropped", dropped.get(name)),
        }
        for name, part in weights.items()
    ]


def _format_cost(name: str, cost: Cost | None) -> dict[str, str]:
    """Return GFLOPs as text; empty for a part of the network that is counted with the others."""
    if cost is None:
        return {name: "", f"{name}_paper": ""}
    return {name: f"{cost.full / 1e9:,.3f}", f"{name}_paper": f"{cost.paper / 1e9:,.3f}"}


def list_published_sizes() -> Iterator[dict[str, str]]:
    """Yield the published numbers of weights beside ours, as text."""
    for row in compare_sizes():
        ours = row.ours / 1e6
        yield {
            "name": row.name,
            "paper": f"{row.paper_millions:.1f}",
            "ours": f"{ours:.3f}",
            "difference": f"{100 * (ours / row.paper_millions - 1):+.2f}%",
            "note": row.note,
        }


def list_published_flops() -> Iterator[dict[str, str]]:
    """Yield the published GFLOPs beside ours, as text."""
    for row in compare_flops():
        ours = row.ours.paper / 1e9
        yield {
            "name": row.name,
            "paper": f"{row.paper_gflops:,.1f}",
            "ours": f"{ours:,.1f}",
            "difference": f"{100 * (ours / row.paper_gflops - 1):+.2f}%",
            "full": f"{row.ours.full / 1e9:,.1f}",
        }
