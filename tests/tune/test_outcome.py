"""What a study leaves in files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.closure import ROOT
from tests.tune.conftest import OWN, make_plan
from vatt.tune.outcome import write_figures, write_outcome

VALUES = (0.5, 0.75, None, 0.625, 0.25)
FIGURES = {"history", "importances", "intermediate_values", "parallel_coordinates"}


def make_trials(*values: float | None) -> dict[int, FrozenTrial]:
    """One trial for each value; None was given up."""
    return {
        number: optuna.create_trial(
            state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
            value=value,
            params={
                "learning_rate": 0.01 * (number + 1),
                "warmup_steps": number,
                "shape": "linear",
            },
            distributions=make_plan().list_distributions(),
            intermediate_values={30: 0.125 * number, 60: value or 0.0},
        )
        for number, value in enumerate(values)
    }


def test_the_best_schedule_is_whole_and_every_trial_is_listed(tmp_path: Path) -> None:
    metrics = write_outcome(make_plan(), make_trials(0.5, 0.75, None, 0.625), 100, tmp_path)
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "schedule": {**OWN, "learning_rate": 0.02, "warmup_steps": 1, "shape": "linear"},
        "value": 0.75,
        "trial": 1,
        "study": make_plan().name,
        "own": OWN,
    }
    counts = {name: metrics[name] for name in ("own_value", "num_trials", "num_pruned")}
    assert counts == {"own_value": 0.5, "num_trials": 4, "num_pruned": 1}
    rows = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert [(row["trial"], row["state"], row["value"]) for row in rows] == [
        (0, "complete", 0.5),
        (1, "complete", 0.75),
        (2, "pruned", None),
        (3, "complete", 0.625),
    ]
    assert rows[2]["steps"] == [{"step": 30, "value": 0.25}, {"step": 60, "value": 0.0}]


@pytest.mark.parametrize("num_clips", [10, 94, 1000])
def test_the_own_schedule_stays_unless_another_is_better_beyond_chance(
    num_clips: int, tmp_path: Path
) -> None:
    """Of two schedules of one true accuracy, the other one is taken once in 20 times."""
    shares = np.random.default_rng(0).binomial(num_clips, 0.6, (500, 2)) / num_clips
    taken = [
        write_outcome(make_plan(), make_trials(*map(float, pair)), num_clips, tmp_path)["trial"]
        for pair in shares
    ]
    assert 0.02 < np.mean(taken) < 0.09
    assert write_outcome(make_plan(), make_trials(0.5, 0.5), num_clips, tmp_path)["trial"] == 0
    assert write_outcome(make_plan(), make_trials(0.1, 0.9), num_clips, tmp_path)["trial"] == 1


def draw(folder: Path, *values: float | None) -> dict[str, str]:
    """Return the figures by name."""
    folder.mkdir(exist_ok=True)
    write_figures(make_trials(*values), folder)
    return {path.stem: path.read_text() for path in folder.glob("*.svg")}


def test_figures_are_the_same_bytes_and_ask_for_nothing(tmp_path: Path) -> None:
    found = draw(tmp_path / "once", *VALUES)
    assert found.keys() == FIGURES
    assert found == draw(tmp_path / "again", *VALUES)
    for name, text in found.items():
        links = re.findall(r"""(?:href|src)=["']([^"']*)|url\(([^)]*)\)""", text)
        assert all(link.startswith(("#", "data:")) for pair in links for link in pair if link)
        assert "learning_rate" in text or name in ("history", "intermediate_values")


def test_figures_of_few_trials_are_left_out(tmp_path: Path) -> None:
    assert draw(tmp_path, 0.5, 0.5).keys() == {"history", "intermediate_values"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_figures_do_not_follow_the_order_of_sets(tmp_path: Path, seed: str) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.tune.test_outcome import *; "
        "draw(Path(sys.argv[1]), *VALUES)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "other")]
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, check=True)
    for name, text in draw(tmp_path, *VALUES).items():
        assert text == (tmp_path / f"other/{name}.svg").read_text(), name
