"""What a study found, in files: the best schedule, all trials, and figures of them as SVG.

The same trials make the same bytes.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib import pyplot as plt
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as drawing

from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.tune.search import Plan, choose

ONE_SIDED_95 = 1.645
"""Standard deviations that a normal variable exceeds once in 20 times."""
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "vatt", "font.size": 9, "backend": "agg"}
FIGURES: dict[str, tuple[str, int, Callable[[optuna.Study], Any]]] = {
    "history": ("Value of each trial", 1, drawing.plot_optimization_history),
    "intermediate_values": ("Value by step of training", 1, drawing.plot_intermediate_values),
    "parallel_coordinates": ("Schedules and their values", 2, drawing.plot_parallel_coordinate),
    # Without the order, equal bars would stand in that of a set, another one in each process.
    "importances": (
        "What the value depends on",
        3,
        lambda study: drawing.plot_param_importances(study, params=sorted(study.trials[0].params)),
    ),
}
"""By file: the title, how many different values of whole trials it takes, and what draws it."""


def keep_own(plan: Plan) -> dict[int, FrozenTrial]:
    """Return the schedule of params.yaml as the one trial of a study, which was not begun."""
    own, state = choose(plan, 0, {}), TrialState.WAITING
    return {0: optuna.create_trial(state=state, params=own.params, distributions=own.distributions)}


def write_outcome(
    plan: Plan, trials: Mapping[int, FrozenTrial], num_clips: int, out_dir: Path
) -> dict[str, Any]:
    """Write best.json and trials.json into a folder, and return the metrics.

    best.json holds the whole chosen schedule: that of params.yaml, unless another one was better
    than it by more than the noise of `num_clips` clips of validation. Its value is null where
    nothing was tried.

    Raises:
        StageError: every trial was given up.
    """
    values = {number: row.value for number, row in trials.items() if row.value is not None}
    num_pruned = sum(row.state == TrialState.PRUNED for row in trials.values())
    if num_pruned == len(trials):
        raise StageError(
            f"none of the {len(trials)} trials could be trained to the end; a lower "
            f"finetune.{plan.task}.schedule.learning_rate may help"
        )
    best = max(values, key=lambda number: values[number], default=0)
    if 0 in values and values[best] - values[0] <= _noise(values[best], values[0], num_clips):
        best = 0
    schedule = {**plan.own, **trials[best].params}
    found = {"schedule": schedule, "value": values.get(best), "trial": best}
    write_json(out_dir / "best.json", {**found, "study": plan.name, "own": dict(plan.own)})
    rows = [
        {
            "trial": number,
            "state": row.state.name.lower(),
            "value": row.value,
            "schedule": row.params,
            "steps": [
                {"step": step, "value": value if math.isfinite(value) else None}
                for step, value in sorted(row.intermediate_values.items())
            ],
        }
        for number, row in trials.items()
    ]
    write_json(out_dir / "trials.json", {"study": plan.name, "trials": rows})
    counts = {"num_trials": len(trials), "num_pruned": num_pruned}
    highest = max(values.values(), default=None)
    return {**found, "own_value": values.get(0), "highest_value": highest, **counts}


def _noise(value: float, other: float, num_clips: int) -> float:
    """Return the difference of two shares of clips that chance exceeds once in 20 times.

    The largest of many trials exceeds it oftener, and shares of the same clips differ by chance
    less than those of two sets, which are assumed here. An mAP is taken for a share, too.
    """
    variance = value * (1 - value) + other * (1 - other)
    return ONE_SIDED_95 * math.sqrt(max(variance, 0.0) / num_clips)


def write_figures(trials: Mapping[int, FrozenTrial], out_dir: Path) -> None:
    """Write `<figure>.svg` for each of FIGURES that there are enough trials for."""
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials.values())
    num_values = len({row.value for row in trials.values() if row.state == TrialState.COMPLETE})
    for name, (title, num_needed, draw) in FIGURES.items():
        if num_values < num_needed:
            continue
        with mpl.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attempting to set identical", UserWarning)
            axes = draw(study)
            axes.set_title("", loc="left")  # where one of the figures has its own
            axes.set_title(title, pad=12)  # above the numbers of upright axes
            for lines in axes.collections:  # else the lowest value is as white as the paper
                if lines.get_array() is not None:
                    low, high = lines.get_clim()
                    lines.set_clim(low - (high - low) / 2, high)
            axes.figure.set_size_inches(7.2, 3.6)
            # Without the date, which would make other bytes of the same trials.
            path, metadata = out_dir / f"{name}.svg", {"Date": None}
            axes.figure.savefig(path, bbox_inches="tight", metadata=metadata)
            plt.close(axes.figure)
