"""Draws the analyses as SVG."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from vatt.evaluate.figures import STYLE, TRAINED, UNTRAINED, render_svg

MODALITY_COLOURS = {"video": TRAINED, "audio": "#bc4c00", "text": "#2da44e"}
LIMIT_RATE = 0.99
"""The share of activations that the colours of a figure tell apart."""


def draw_points(tables: Mapping[str, pd.DataFrame], column: str, names: Sequence[str]) -> str:
    """Draw points `x`, `y`, a panel for each table, coloured by what stands in `column`."""
    palette = mpl.colormaps["tab10" if len(names) <= 10 else "tab20"]
    colours = {name: MODALITY_COLOURS.get(name, palette(n)) for n, name in enumerate(names)}
    with mpl.rc_context(STYLE):
        width = min(3.2, 9.0 / len(tables))
        figure = Figure(figsize=(width * len(tables) + 1.4, width + 0.3), layout="constrained")
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        lines = {}
        for axes, (title, table) in zip(panels, tables.items(), strict=True):
            for name in names:
                own = table[table[column] == name]
                (line,) = axes.plot(
                    own["x"], own["y"], "o", color=colours[name], markersize=2.6, markeredgewidth=0
                )
                if len(own):
                    lines[name] = line
            axes.set(title=title[:1].upper() + title[1:], xticks=[], yticks=[], xlabel="t-SNE 1")
        panels[0].set_ylabel("t-SNE 2")
        shown = [name for name in names if name in lines]
        figure.legend(
            [lines[name] for name in shown],
            shown,
            loc="outside right upper",
            markerscale=2.2,
            title=column,
        )
        return render_svg(figure)


def draw_densities(tables: Mapping[str, pd.DataFrame]) -> str:
    """Draw the densities `pairs` and `others` over similarity, a panel for each table."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained")
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        for axes, (title, table) in zip(panels, tables.items(), strict=True):
            edges = [*table["from"], table["to"].iloc[-1]]
            for name, label, colour in (
                ("others", "random pairs", UNTRAINED),
                ("pairs", "of one clip", TRAINED),
            ):
                axes.stairs(table[name], edges, fill=True, color=colour, alpha=0.35)
                axes.stairs(table[name], edges, color=colour, label=label)
            axes.set(
                title=title[:1].upper() + title[1:], xlabel="cosine similarity", ylabel="density"
            )
            axes.set(xlim=(-1, 1))
            axes.legend(loc="upper left")
        return render_svg(figure)


def draw_accuracies(data: pd.DataFrame) -> str:
    """Draw a bar for the `accuracy` of each `space`, and a line across it at `chance`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 2.7), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(data))
        bars = axes.bar(places, data["accuracy"], width=0.55, color=TRAINED)
        axes.bar_label(bars, [f"{value:.1%}" for value in data["accuracy"]], padding=2)
        axes.hlines(
            data["chance"],
            places - 0.4,
            places + 0.4,
            color="black",
            linestyle="--",
            label="chance",
        )
        axes.set(ylabel="accuracy", ylim=(0, 1.12), yticks=np.linspace(0, 1, 6))
        axes.set_xticks(places, list(data["space"]))
        figure.legend(loc="outside right upper")
        return render_svg(figure)


def draw_nodes(means: Mapping[str, Float[np.ndarray, "L D"]]) -> str:
    """Draw a map of layers and nodes for each modality, with the same colours in all."""
    limit = float(np.quantile(np.abs(np.stack(list(means.values()))), LIMIT_RATE)) or 1.0
    num_layers = len(next(iter(means.values())))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.6 + 0.18 * num_layers), layout="constrained")
        panels = figure.subplots(1, len(means), squeeze=False, sharey=True)[0]
        for axes, (name, values) in zip(panels, means.items(), strict=True):
            image = axes.imshow(values, "RdBu_r", vmin=-limit, vmax=limit, origin="lower")
            image.set_interpolation("nearest")  # no colours between layers
            axes.set_aspect("auto")
            axes.set(title=name.capitalize(), xlabel="node")
            axes.set_yticks(range(num_layers), [f"{layer + 1}" for layer in range(num_layers)])
        panels[0].set_ylabel("layer")
        figure.colorbar(image, ax=list(panels), label="mean activation", extend="both")
        return render_svg(figure)
