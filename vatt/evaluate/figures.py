"""The figures of the report as SVG, and texts with the clips that the network found for them."""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.image import imsave

from vatt.evaluate.comparison import Comparison, RankedPair
from vatt.evaluate.features import Clips
from vatt.evaluate.finetuned import TaskResult
from vatt.evaluate.linear_evaluation import Probe
from vatt.evaluate.metrics import find_mean_ranks, find_within
from vatt.evaluate.retrieval import DIRECTIONS
from vatt.loading.augmentation import centre_view
from vatt.loading.parts import PartReader
from vatt.params import TASKS, ClipParams

TRAINED, UNTRAINED, CHANCE = "#1f6feb", "#9a6700", "#8c959f"
PRETRAINING = "pretrain"  # the name of its curve, among those of tasks
CurveRow = Mapping[str, Any]
MAX_NAMED_CLASSES, MAX_COUNTED_CLASSES = 40, 12
TASK_PANELS = ("Loss", "Accuracy on the batches", "Learning rate")
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


Line = tuple[Sequence[CurveRow], str, str, str | None]
"""A curve, the number of it that is drawn over its steps, the label and the colour of the line."""
Figures = Mapping[str, tuple[str, str]]
"""A title among others of its kind and an <svg> element, by the names of their files; what there is
nothing to draw of is not there."""


def draw_figures(comparison: Comparison, curves: Mapping[str, Sequence[CurveRow]]) -> Figures:
    """Draw `curves`, `finetuned_curves`, `recall`, `confusion_0` and `finetuned_0` and so on.

    The numbered ones are the confusion of the linear classifiers and of the fine-tuned networks.
    `curves` holds a row of numbers for each logged step, of `pretrain` and of each task.
    """
    figures = draw_curves(curves)
    ranked = {name: pair for name, pair in comparison.retrieval.items() if len(pair.trained.better)}
    if ranked:
        figures["recall"] = ("", draw_recall(ranked))
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
            (title, draw_confusion(classes, counts)) for title, classes, counts in found if counts
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


def draw_curves(curves: Mapping[str, Sequence[CurveRow]]) -> dict[str, tuple[str, str]]:
    """Draw numbers of pre-training over its steps, and of fine-tuning, a line for each task."""
    figures = {}
    if curve := curves.get(PRETRAINING):
        losses = zip(("loss", "loss_va", "loss_vt"), (TRAINED, UNTRAINED, "#2da44e"), strict=True)
        panels: dict[str, list[Line]] = {
            "Loss": [(curve, name, name, colour) for name, colour in losses],
            "Learning rate": [(curve, "learning_rate", "", TRAINED)],
            "Gradient norm": [(curve, "gradient_norm", "", TRAINED)],
        }
        figures["curves"] = ("", _draw_panels(panels, with_legend=0))
    tasks = {name: curve for name, curve in curves.items() if curve and name != PRETRAINING}
    if tasks:
        names = ("loss", "accuracy", "learning_rate")
        panels = {
            title: [(curve, name, task, None) for task, curve in tasks.items()]
            for title, name in zip(TASK_PANELS, names, strict=True)
        }
        figures["finetuned_curves"] = ("", _draw_panels(panels, with_legend=-1))
    return figures


def _draw_panels(panels: Mapping[str, Sequence[Line]], with_legend: int) -> str:
    """Draw panels side by side, by title; the one of this number has a legend."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        all_axes = figure.subplots(1, len(panels))
        for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
            for curve, name, label, colour in lines:
                steps = [row["step"] for row in curve]
                values = np.array([row.get(name) for row in curve], dtype=float)
                axes.plot(steps, values, color=colour, linewidth=1.2, label=label)
            axes.set(title=title, xlabel="step")
            axes.margins(x=0)
        all_axes[with_legend].legend()
        return render_svg(figure)


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
        return render_svg(figure)


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
        return render_svg(figure)


def trace_recall(pair: RankedPair) -> dict[str, Float[np.ndarray, " K"]]:
    """Return `trained`, `untrained` and `chance` recall by `k`, 0 to the number of items."""
    num_items = len(pair.search.samples)
    ks = np.linspace(0, num_items, 201)
    trained, untrained = (
        np.array([find_within(k, own).mean() for k in ks]) for own in (pair.trained, pair.untrained)
    )
    return {"k": ks, "trained": trained, "untrained": untrained, "chance": ks / num_items}


def read_svg(path: Path) -> str:
    """Return the <svg> element of a file alone, without what HTML does not allow before it."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def render_svg(figure: Figure) -> str:
    """Return the <svg> element alone, without the date."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


NUM_EXAMPLES, NUM_FOUND, NUM_FRAMES = 3, 3, 3

FrameReader = Callable[[int], UInt8[np.ndarray, "T H W 3"]]
"""Reads the RGB frames of the clip with this number in its split."""


Examples = Mapping[str, Sequence[Mapping[str, Any]]]
"""By title, texts with their `text`, `rank`, `num_clips` and `clips`: the own one first, then those
that were found. A clip has `images` (frames as `data:` addresses), `caption` and `right`."""


def open_frame_reader(preprocess_dir: Path, clip: ClipParams, rows: pd.DataFrame) -> FrameReader:
    """Return a reader of the middle window of any of these clips."""
    reader = PartReader(preprocess_dir, clip)

    def read_frames(number: int) -> UInt8[np.ndarray, "T H W 3"]:
        segment = rows.iloc[number]
        start = max(0, int(segment.num_frames) - clip.num_frames) // 2
        size_px = (int(segment.height_px), int(segment.width_px))
        video = reader.read_video(segment, start, centre_view(size_px, clip.frame_size_px))
        return np.asarray((video * 255).round().byte())

    return read_frames


def pick_examples(clips: Clips, pair: RankedPair, read_frames: FrameReader) -> Examples:
    """Return the texts whose own clip was found best and worst; none where no clip has a text.

    `pair` is of the direction text_to_video. Among equal ranks those come first that differ most in
    similarity from the best wrong clip.
    """
    search, mean_ranks = pair.search, find_mean_ranks(pair.trained)
    order = np.lexsort((-pair.trained.margin, mean_ranks)).tolist()
    best, worst = order[:NUM_EXAMPLES], order[NUM_EXAMPLES:][::-1][:NUM_EXAMPLES]

    def build(query: int) -> dict[str, Any]:
        similarities = search.items @ search.queries[query]
        right = int(search.right[query])
        found = np.argsort(-similarities, kind="stable")[:NUM_FOUND].tolist()
        shown = []
        for place, item in enumerate([right, *found]):
            sample = search.samples[item]
            clip = int(sample[len(sample) // 2])
            frames = read_frames(clip)
            row = clips.rows.iloc[clip]
            chosen = np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int)
            name = "its own clip" if place == 0 else f"found {place}"
            times = f"{row.start_s:.1f}–{row.end_s:.1f}\u00a0s"
            caption = f"{name}, similarity {similarities[item]:.2f}: {clips.videos[clip]}, {times}"
            images = [_encode_image(frames[number]) for number in chosen]
            shown.append({"images": images, "caption": caption, "right": item == right})
        numbers = {"rank": f"{mean_ranks[query]:g}", "num_clips": len(search.samples)}
        return {"text": search.texts[query], **numbers, "clips": shown}

    titles = {"Best": best, "Worst": worst}
    return {
        title: [build(query) for query in queries] for title, queries in titles.items() if queries
    }


def _encode_image(image: UInt8[np.ndarray, "H W 3"]) -> str:
    buffer = io.BytesIO()
    imsave(buffer, image, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
