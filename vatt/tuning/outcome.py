"""What a study found, in files: the best schedule, all trials, figures."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from vatt.atomic import write_json
from vatt.params import StageError
from vatt.tuning.choice import copy_trial
from vatt.tuning.figures import draw_study
from vatt.tuning.plan import Plan

BEST_NAME, TRIALS_NAME = "best.json", "trials.json"


def keep_own(plan: Plan) -> dict[int, FrozenTrial]:
    """Return the schedule of params.yaml as a trial that was not begun."""
    distributions = plan.list_distributions()
    params = {name: plan.own[name] for name in distributions}
    state = TrialState.WAITING
    return {0: optuna.create_trial(state=state, params=params, distributions=distributions)}


def write_outcome(plan: Plan, trials: Mapping[int, FrozenTrial], out_dir: Path) -> dict[str, Any]:
    """Write what trials found into a folder, and return the metrics.

    best.json holds the whole best schedule; of equal ones the first, so that the schedule of
    params.yaml stays unless another is better. Its value is null where nothing was tried. trials.json
    holds every trial.

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
    schedule, value = {**plan.own, **trials[best].params}, values.get(best)
    found = {"schedule": schedule, "value": value, "trial": best, "study": plan.name}
    write_json(out_dir / BEST_NAME, {**found, "own": dict(plan.own)})
    rows = [_describe(number, row) for number, row in trials.items()]
    write_json(out_dir / TRIALS_NAME, {"study": plan.name, "trials": rows})
    return {
        "value": value,
        "trial": best,
        "own_value": values.get(0),
        "num_trials": len(trials),
        "num_pruned": num_pruned,
        "schedule": schedule,
    }


def write_figures(trials: Mapping[int, FrozenTrial], out_dir: Path) -> None:
    """Write `<figure>.svg` for each figure that there are enough trials for."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials([copy_trial(row, with_result=True) for row in trials.values()])
    for name, figure in draw_study(study).items():
        (out_dir / f"{name}.svg").write_text(figure, encoding="utf-8")


def _describe(number: int, row: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": number,
        "state": row.state.name.lower(),
        "value": row.value,
        "schedule": row.params,
        "steps": [
            {"step": step, "value": value if math.isfinite(value) else None}
            for step, value in sorted(row.intermediate_values.items())
        ],
    }
