"""What a study leaves in files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.closure import ROOT
from tests.tune.trainings import OWN, make_plan
from vatt.core.errors import StageError
from vatt.tune.outcome import write_figures, write_outcome

VALUES = (0.5, 0.75, None, 0.625, 0.25)
FIGURES = {"history", "importances", "intermediate_values", "parallel_coordinates"}


def make_trials(*values: float | None) -> dict[int, FrozenTrial]:
    """One trial for each value; None was given up."""
    distributions = make_plan().list_distributions()
    trials = {}
    for number, value in enumerate(values):
        params = {"learning_rate": 0.01 * (number + 1), "warmup_steps": number, "shape": "linear"}
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        trials[number] = optuna.create_trial(
            state=state,
            value=value,
            params=params,
            distributions=distributions,
            intermediate_values={30: 0.125 * number, 60: value or 0.0},
        )
    return trials


def test_the_best_schedule_is_whole(tmp_path: Path) -> None:
    metrics = write_outcome(make_plan(), make_trials(0.5, 0.75, None, 0.625), tmp_path)
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {
        "schedule": {**OWN, "learning_rate": 0.02, "warmup_steps": 1, "shape": "linear"},
        "value": 0.75,
        "trial": 1,
        "study": make_plan().name,
        "own": OWN,
    }
    counts = {name: metrics[name] for name in ("own_value", "num_trials", "num_pruned")}
    assert counts == {"own_value": 0.5, "num_trials": 4, "num_pruned": 1}


def test_of_equal_schedules_the_first_stays(tmp_path: Path) -> None:
    assert write_outcome(make_plan(), make_trials(0.5, 0.5, 0.25), tmp_path)["trial"] == 0


def test_every_trial_is_listed(tmp_path: Path) -> None:
    write_outcome(make_plan(), make_trials(0.5, None), tmp_path)
    rows = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert [(row["trial"], row["state"], row["value"]) for row in rows] == [
        (0, "complete", 0.5),
        (1, "pruned", None),
    ]
    assert rows[1]["steps"] == [{"step": 30, "value": 0.125}, {"step": 60, "value": 0.0}]


def test_without_a_whole_trial_there_is_no_best(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="none of the 2 trials"):
        write_outcome(make_plan(), make_trials(None, None), tmp_path)


def test_figures_are_the_same_bytes_and_ask_for_nothing(tmp_path: Path) -> None:
    trials = make_trials(*VALUES)
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        write_figures(trials, tmp_path / name)
    paths = sorted((tmp_path / "once").iterdir())
    assert {path.stem for path in paths} == FIGURES
    for path in paths:
        text = path.read_text()
        assert text == (tmp_path / "again" / path.name).read_text()
        links = re.findall(r"""(?:href|src)=["']([^"']*)|url\(([^)]*)\)""", text)
        assert all(link.startswith(("#", "data:")) for pair in links for link in pair if link)
        assert "learning_rate" in text or path.stem in ("history", "intermediate_values")


def test_figures_of_few_trials_are_left_out(tmp_path: Path) -> None:
    write_figures(make_trials(0.5, 0.5), tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"history", "intermediate_values"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_figures_do_not_follow_the_order_of_sets(tmp_path: Path, seed: str) -> None:
    write_figures(make_trials(*VALUES), tmp_path)
    (tmp_path / "other").mkdir()
    code = (
        "import sys; from pathlib import Path; from tests.tune.test_outcome import *; "
        "write_figures(make_trials(*VALUES), Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "other")]
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, check=True)
    for path in tmp_path.glob("*.svg"):
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name
