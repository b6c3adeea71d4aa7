"""Steps that would do harm: left out or gone back behind, counted, the same after a kill."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train.corpus import PRETRAIN, build_engine, build_run, open_batches
from vatt.core.batch import Batch
from vatt.core.errors import StageError
from vatt.train.loop import train
from vatt.train.monitor import Guard
from vatt.train.pretraining import PARTS

NUM_STEPS = 12


def break_steps(*broken: int) -> Callable[[int], Iterator[Batch]]:
    """Return the batches of the tests, NaN in some steps."""

    def open_broken(start_step: int) -> Iterator[Batch]:
        for step, batch in enumerate(open_batches(start_step), start=start_step + 1):
            silent = torch.full_like(batch.video, torch.nan)
            yield replace(batch, video=silent) if step in broken else batch

    return open_broken


def run(directory: Path, batches: Callable[[int], Iterator[Batch]], **values: Any) -> list[Any]:
    """Train; returns the rows of the curve and the weights."""
    updates = {"num_steps": NUM_STEPS, "log_every_steps": 1, **values}
    pretrain = PRETRAIN.model_copy(update=updates)
    engine = build_engine(pretrain=pretrain)
    return [train(engine, *build_run(directory, pretrain, batches)).rows, engine.gather_weights()]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


def test_a_bad_step_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, weights = run(tmp_path, break_steps(7), on_bad_step="skip")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert "step 7 is left out: loss is nan" in capsys.readouterr().err
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert json.loads((tmp_path / "curve.jsonl").read_text().splitlines()[6])["step"] == 8


def test_a_run_rolls_back_behind_a_bad_step(tmp_path: Path) -> None:
    """At step 8 it goes on with the weights of step 5: steps 6 and 7 leave nothing in them."""
    rows, weights = run(tmp_path / "a", break_steps(8), on_bad_step="roll_back")
    _, others = run(tmp_path / "b", break_steps(6, 7, 8), on_bad_step="skip")
    assert_same(weights, others)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12]


@pytest.mark.parametrize("on_bad_step", ["skip", "roll_back"])
def test_a_killed_run_decides_as_before(tmp_path: Path, on_bad_step: str) -> None:
    whole = run(tmp_path / "whole", break_steps(4, 8), on_bad_step=on_bad_step)

    def end_after_nine(start_step: int) -> Iterator[Batch]:
        steps = range(start_step + 1, 10)
        return (batch for _, batch in zip(steps, break_steps(4, 8)(start_step), strict=False))

    with pytest.raises(StageError, match="the data ended"):
        run(tmp_path / "killed", end_after_nine, on_bad_step=on_bad_step)
    rows, weights = run(tmp_path / "killed", break_steps(4, 8), on_bad_step=on_bad_step)
    assert rows == whole[0]
    assert_same(weights, whole[1])


def test_too_many_bad_steps_end_the_run(tmp_path: Path) -> None:
    batches = break_steps(2, 4, 6)
    assert run(tmp_path / "a", batches, on_bad_step="skip", max_bad_steps=3)
    with pytest.raises(
        StageError, match=r"step 6: .*more bad steps than pretrain.max_bad_steps = 2"
    ):
        run(tmp_path / "b", batches, on_bad_step="skip", max_bad_steps=2)


def test_a_spike_is_a_multiple_of_the_running_median() -> None:
    pretrain = PRETRAIN.model_copy(update={"spike_factor": 2.0})
    guard = Guard("pretrain", PARTS, pretrain, {})
    for loss in [9.0] * 19:
        guard.accept(loss)
    assert guard.find_problem([100.0, 1.0, 1.0]) is None  # too early to tell
    for loss in [3.0] * 90:
        guard.accept(loss)
    assert guard.find_problem([5.9, 1.0, 1.0]) is None  # of the last 100: nearly all are 3
    assert guard.find_problem([6.1, 1.0, 1.0]) == "loss is 6.1, the median of the steps before is 3"
    again = Guard("pretrain", PARTS, pretrain, json.loads(json.dumps(guard.state())))
    assert again.find_problem([6.1, 1.0, 1.0]) is not None
    calm = PRETRAIN.model_copy(update={"spike_factor": None})
    never = Guard("pretrain", PARTS, calm, guard.state())
    assert never.find_problem([1e9, 1.0, 1.0]) is None
    assert never.find_problem([float("inf"), 1.0, 1.0]) == "loss is inf"
