"""Figures of the report, as SVG text with the same bytes for the same numbers."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vatt.evaluate.comparison import Comparison, RankedPair
from vatt.evaluate.finetuned import TaskResult
from vatt.evaluate.probes import Probe
from vatt.evaluate.retrieval import recall_at
from vatt.evaluate.summary import DIRECTIONS
from vatt.params import TASKS

TRAINED, UNTRAINED, CHANCE = "#1f6feb", "#9a6700", "#8c959f"
PRETRAINING = "pretrain"
"""The name of its curve, among those of tasks."""
Row = Mapping[str, Any]
MAX_NAMED_CLASSES = 40
MAX_COUNTED_CLASSES = 12
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vatt",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # names of classes are no formulas
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8c959f",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


class Figures(NamedTuple):
    """SVG elements; None where there is nothing to draw."""

    curves: str | None
    """Of pre-training."""
    finetuned_curves: str | None
    recall: str | None
    confusion: Mapping[str, str]
    """By title, of the linear classifiers that were measured."""
    finetuned: Mapping[str, str]
    """Confusion by title, of the fine-tuned networks."""


def draw_figures(comparison: Comparison, curves: Mapping[str, Sequence[Row]]) -> Figures:
    """Draw everything for the report.

    `curves` holds a row of numbers for each logged step, of `pretrain` and of each task.
    """
    ranks = {name: pair for name, pair in comparison.retrieval.items() if len(pair.trained.better)}
    confusion = {
        f"{pair.task}, from {pair.modality}": draw_confusion(
            pair.trained.classes, pair.trained.confusion
        )
        for pair in comparison.probes
        if isinstance(pair.trained, Probe) and pair.trained.confusion is not None
    }
    finetuned = {
        f"{name}: {result.label}": draw_confusion(result.classes, result.confusion)
        for name, result in comparison.finetuned.items()
        if isinstance(result, TaskResult) and result.confusion is not None
    }
    of_tasks = {name: curve for name, curve in curves.items() if curve and name != PRETRAINING}
    pretraining = curves.get(PRETRAINING)
    return Figures(
        curves=draw_curves(pretraining) if pretraining else None,
        finetuned_curves=draw_task_curves(of_tasks) if of_tasks else None,
        recall=draw_recall(ranks) if ranks else None,
        confusion=confusion,
        finetuned=finetuned,
    )


def read_curves(metrics_dir: Path) -> dict[str, list[Row]]:
    """Read the curves of pre-training and of the tasks that were trained, by name."""
    paths = {PRETRAINING: metrics_dir / f"{PRETRAINING}_curve.jsonl"}
    paths |= {task: metrics_dir / f"finetune_{task}_curve.jsonl" for task in TASKS}
    return {
        name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for name, path in paths.items()
        if path.is_file()
    }


def draw_curves(curve: Sequence[Row]) -> str:
    """Draw losses, learning rate and gradient norm over the steps of pre-training."""
    panels = {
        "Loss": ["loss", "loss_va", "loss_vt"],
        "Learning rate": ["learning_rate"],
        "Gradient norm": ["gradient_norm"],
    }
    steps = [row["step"] for row in curve]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        for axes, (title, names) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            for name, colour in zip(names, (TRAINED, UNTRAINED, "#2da44e"), strict=False):
                values = [_number(row.get(name)) for row in curve]
                axes.plot(steps, values, color=colour, linewidth=1.2, label=name)
            axes.set(title=title, xlabel="step")
            axes.margins(x=0)
            if len(names) > 1:
                axes.legend()
        return _to_svg(figure)


def draw_task_curves(curves: Mapping[str, Sequence[Row]]) -> str:
    """Draw loss, accuracy and learning rate over the steps of fine-tuning, a line for each task."""
    panels = {
        "Loss": "loss",
        "Accuracy on the batches": "accuracy",
        "Learning rate": "learning_rate",
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        for axes, (title, name) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            for task, curve in curves.items():
                values = [_number(row.get(name)) for row in curve]
                axes.plot([row["step"] for row in curve], values, linewidth=1.2, label=task)
            axes.set(title=title, xlabel="step")
            axes.margins(x=0)
        axes.legend()
        return _to_svg(figure)


def draw_recall(ranks: Mapping[str, RankedPair]) -> str:
    """Draw recall at every k, a panel for each direction: trained, untrained and chance."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained")
        panels = figure.subplots(1, len(ranks), squeeze=False)[0]
        for axes, (direction, pair) in zip(panels, ranks.items(), strict=True):
            _draw_recall_panel(axes, pair)
            title = DIRECTIONS[direction].capitalize()
            axes.set(title=title, xlabel="k", ylabel="recall at k", ylim=(0, 1.02))
            axes.legend(loc="lower right")
        return _to_svg(figure)


def draw_confusion(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix of counts; each row is a true class, coloured by its shares."""
    counts = np.array(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    num_classes = len(classes)
    size = min(2.0 + 0.3 * num_classes, 9.0)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(size, size * 0.92), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted", ylabel="true")
        if num_classes <= MAX_NAMED_CLASSES:
            axes.set_xticks(range(num_classes), classes, rotation=45, ha="right")
            axes.set_yticks(range(num_classes), classes)
        if num_classes <= MAX_COUNTED_CLASSES:
            _write_counts(axes, counts, shares)
        return _to_svg(figure)


def trace_recall(pair: RankedPair) -> dict[str, Float[np.ndarray, " K"]]:
    """Return recall by k, from 0 to the number of items: `k`, `trained`, `untrained` and `chance`."""
    num_items = len(pair.searches[0].samples)
    ks = np.linspace(0, num_items, 201)
    lines = {"trained": pair.trained, "untrained": pair.untrained}
    recalls = {name: np.array([recall_at(k, ranks) for k in ks]) for name, ranks in lines.items()}
    return {"k": ks, **recalls, "chance": ks / num_items}


def _draw_recall_panel(axes: Axes, pair: RankedPair) -> None:
    lines = trace_recall(pair)
    axes.plot(lines["k"], lines["trained"], color=TRAINED, label="trained")
    axes.plot(lines["k"], lines["untrained"], color=UNTRAINED, label="untrained")
    axes.plot(lines["k"], lines["chance"], color=CHANCE, linestyle="--", label="chance")
    axes.margins(x=0)


def _write_counts(
    axes: Axes, counts: Float[np.ndarray, "C C"], shares: Float[np.ndarray, "C C"]
) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "#1f2328"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _to_svg(figure: Figure) -> str:
    """Return the <svg> element alone, without the date and what HTML does not allow before it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
