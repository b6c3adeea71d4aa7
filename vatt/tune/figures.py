"""Figures of a study, as SVG text with the same bytes for the same trials."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib import pyplot as plt
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from optuna.visualization import matplotlib as drawing

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "vatt", "font.size": 9}


def draw_importances(study: optuna.Study) -> Any:
    """Draw how much the value depends on each key; of equal ones in the order of their names."""
    return drawing.plot_param_importances(study, params=sorted(study.trials[0].params))


FIGURES: dict[str, tuple[str, int, Callable[[optuna.Study], Any]]] = {
    "history": ("Value of each trial", 1, drawing.plot_optimization_history),
    "intermediate_values": ("Value by step of training", 1, drawing.plot_intermediate_values),
    "parallel_coordinates": ("Schedules and their values", 2, drawing.plot_parallel_coordinate),
    "importances": ("What the value depends on", 3, draw_importances),
}
"""By file: title, how many different values of whole trials it takes, what draws it."""


def draw_study(study: optuna.Study) -> dict[str, str]:
    """Draw the figures that there are enough trials for, by name."""
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    num_values = len({trial.value for trial in whole})
    return {
        name: _draw(study, title, draw)
        for name, (title, num_needed, draw) in FIGURES.items()
        if num_values >= num_needed
    }


def _draw(study: optuna.Study, title: str, draw: Callable[[optuna.Study], Any]) -> str:
    with mpl.rc_context({**STYLE, "backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Attempting to set identical", UserWarning)
        axes = draw(study)
        axes.set_title("", loc="left")  # where one of the figures has its own
        axes.set_title(title, pad=12)  # above the numbers of upright axes
        for lines in axes.collections:  # else the lowest value is as white as the paper
            if lines.get_array() is not None:
                low, high = lines.get_clim()
                lines.set_clim(low - (high - low) / 2, high)
        figure, text = axes.figure, io.StringIO()
        figure.set_size_inches(7.2, 3.6)
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    return text.getvalue()
