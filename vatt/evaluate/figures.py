"""Figures of the report, as SVG text with the same bytes for the same numbers."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from vatt.evaluate.comparison import Comparison, RankedPair
from vatt.evaluate.finetuned import TaskResult
from vatt.evaluate.measures import find_within
from vatt.evaluate.probes import Probe
from vatt.evaluate.results import DIRECTIONS
from vatt.params import TASKS

TRAINED, UNTRAINED, CHANCE = "#1f6feb", "#9a6700", "#8c959f"
PRETRAINING = "pretrain"
"""The name of its curve, among those of tasks."""
CurveRow = Mapping[str, Any]
MAX_NAMED_CLASSES = 40
MAX_COUNTED_CLASSES = 12
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vatt",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # the names of classes are no formulas
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8c959f",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


class Drawing(NamedTuple):
    """A figure."""

    title: str
    """What it is called among others of its kind."""
    svg: str
    """The <svg> element."""


Figures = Mapping[str, Drawing]
"""By the names of their files; what there is nothing to draw of is not there."""


def draw_figures(comparison: Comparison, curves: Mapping[str, Sequence[CurveRow]]) -> Figures:
    """Draw `curves`, `finetuned_curves`, `recall`, `confusion_0` and `finetuned_0` and so on.

    The numbered ones are the confusion of the linear classifiers and of the fine-tuned networks.
    `curves` holds a row of numbers for each logged step, of `pretrain` and of each task.
    """
    figures = {}
    if curves.get(PRETRAINING):
        figures["curves"] = Drawing("", draw_curves(curves[PRETRAINING]))
    tasks = {name: curve for name, curve in curves.items() if curve and name != PRETRAINING}
    if tasks:
        figures["finetuned_curves"] = Drawing("", draw_task_curves(tasks))
    ranked = {name: pair for name, pair in comparison.retrieval.items() if len(pair.trained.better)}
    if ranked:
        figures["recall"] = Drawing("", draw_recall(ranked))
    probes = [
        (f"{task}, from {modality}", own.classes, own.confusion)
        for (task, modality), by_method in comparison.probes.items()
        if isinstance(own := by_method["logistic"][0], Probe)
    ]
    finetuned = [
        (f"{name}: {result.entry.label}", result.entry.classes, result.confusion)
        for name, result in comparison.finetuned.items()
        if isinstance(result, TaskResult)
    ]
    for kind, found in (("confusion", probes), ("finetuned", finetuned)):
        drawn = [
            Drawing(title, draw_confusion(classes, counts))
            for title, classes, counts in found
            if counts is not None
        ]
        figures |= {f"{kind}_{number}": drawing for number, drawing in enumerate(drawn)}
    return figures


def read_curves(metrics_dir: Path) -> dict[str, list[CurveRow]]:
    """Read the curves of pre-training and of the tasks that were trained, by name."""
    paths = {PRETRAINING: metrics_dir / f"{PRETRAINING}_curve.jsonl"}
    paths |= {task: metrics_dir / f"finetune_{task}_curve.jsonl" for task in TASKS}
    return {
        name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for name, path in paths.items()
        if path.is_file()
    }


def draw_curves(curve: Sequence[CurveRow]) -> str:
    """Draw losses, learning rate and gradient norm over the steps of pre-training."""
    losses = zip(("loss", "loss_va", "loss_vt"), (TRAINED, UNTRAINED, "#2da44e"), strict=True)
    panels = {
        "Loss": [_Line(curve, name, name, colour) for name, colour in losses],
        "Learning rate": [_Line(curve, "learning_rate", colour=TRAINED)],
        "Gradient norm": [_Line(curve, "gradient_norm", colour=TRAINED)],
    }
    return _draw_panels(panels, with_legend=0)


def draw_task_curves(curves: Mapping[str, Sequence[CurveRow]]) -> str:
    """Draw loss, accuracy and learning rate over the steps of fine-tuning, a line for each task."""
    names = {
        "Loss": "loss",
        "Accuracy on the batches": "accuracy",
        "Learning rate": "learning_rate",
    }
    panels = {
        title: [_Line(curve, name, task) for task, curve in curves.items()]
        for title, name in names.items()
    }
    return _draw_panels(panels, with_legend=-1)


class _Line(NamedTuple):
    """A number of a curve over its steps."""

    curve: Sequence[CurveRow]
    name: str
    label: str = ""
    colour: str | None = None


def _draw_panels(panels: Mapping[str, Sequence[_Line]], with_legend: int) -> str:
    """Draw panels side by side, by title; the one of this number has a legend."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        all_axes = figure.subplots(1, len(panels))
        for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
            for line in lines:
                steps = [row["step"] for row in line.curve]
                values = np.array([row.get(line.name) for row in line.curve], dtype=float)
                axes.plot(steps, values, color=line.colour, linewidth=1.2, label=line.label)
            axes.set(title=title, xlabel="step")
            axes.margins(x=0)
        all_axes[with_legend].legend()
        return _to_svg(figure)


def draw_recall(ranks: Mapping[str, RankedPair]) -> str:
    """Draw recall at every k, a panel for each direction: trained, untrained and chance."""
    styles = {
        "trained": {"color": TRAINED},
        "untrained": {"color": UNTRAINED},
        "chance": {"color": CHANCE, "linestyle": "--"},
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained")
        panels = figure.subplots(1, len(ranks), squeeze=False)[0]
        for axes, (direction, pair) in zip(panels, ranks.items(), strict=True):
            lines = trace_recall(pair)
            for name, style in styles.items():
                axes.plot(lines["k"], lines[name], label=name, **style)
            axes.margins(x=0)
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
            for row, column in np.argwhere(counts):
                colour = "white" if shares[row, column] > 0.5 else "#1f2328"
                count = f"{counts[row, column]:.0f}"
                axes.text(column, row, count, ha="center", va="center", color=colour)
        return _to_svg(figure)


def trace_recall(pair: RankedPair) -> dict[str, Float[np.ndarray, " K"]]:
    """Return `trained`, `untrained` and `chance` recall by `k`, 0 to the number of items."""
    num_items = len(pair.search.samples)
    ks = np.linspace(0, num_items, 201)
    lines = {"trained": pair.trained, "untrained": pair.untrained}
    recalls = {
        name: np.array([find_within(k, ranks).mean() for k in ks]) for name, ranks in lines.items()
    }
    return {"k": ks, **recalls, "chance": ks / num_items}


def _to_svg(figure: Figure) -> str:
    """Return the <svg> element alone, without the date and what HTML does not allow before it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
