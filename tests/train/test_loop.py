"""Whole short runs: resuming, damaged checkpoints, bad steps; the same after a kill."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train.corpus import (
    LAUNCH,
    MODEL,
    PRETRAIN,
    build_engine,
    build_run,
    make_batch,
    open_batches,
)
from vatt.core.batch import Batch
from vatt.core.errors import StageError
from vatt.train.engine import join_processes
from vatt.train.loop import Records, derive_seed, train

assert_same_weights = partial(torch.testing.assert_close, rtol=0, atol=0)
RANDOM_MODEL = MODEL.model_copy(update={"dropout_rate": 0.1, "drop_token_rate": 0.5})


def run(
    directory: Path, num_steps: int = 12, batches: Callable[[int], Iterator[Batch]] = open_batches
) -> dict[str, Tensor]:
    pretrain = PRETRAIN.model_copy(update={"num_steps": num_steps})
    engine = build_engine(RANDOM_MODEL, pretrain)
    train(engine, *build_run(directory, pretrain, batches))
    return engine.gather_weights()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """Return the folder and the weights of an uninterrupted run of 12 steps."""
    directory = tmp_path_factory.mktemp("finished")
    return directory, run(directory)


def steps_of(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "run").glob("step-*"))


def test_curve_holds_window_means(finished: tuple[Path, dict[str, Tensor]]) -> None:
    rows = [json.loads(line) for line in (finished[0] / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert rows[0].keys() == {
        *("step", "loss", "loss_va", "loss_vt", "gradient_norm", "learning_rate")
    }
    for row in rows:
        assert row["loss"] == pytest.approx((row["loss_va"] + row["loss_vt"]) / 2, rel=1e-6)


def test_finished_run_trains_nothing(
    finished: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)

    def refuse(start_step: int) -> Iterator[Batch]:
        raise AssertionError(start_step)

    assert_same_weights(run(tmp_path, batches=refuse), finished[1])
    assert (tmp_path / "curve.jsonl").read_bytes() == (finished[0] / "curve.jsonl").read_bytes()


def flip_byte(checkpoint: Path) -> None:
    path = checkpoint / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove_marker(checkpoint: Path) -> None:
    (checkpoint / "complete.json").unlink()


def damage_marker(checkpoint: Path) -> None:
    (checkpoint / "complete.json").write_text('{"files": ')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_byte, "state.safetensors is damaged"),
        (remove_marker, "half-written"),
        (damage_marker, "complete.json is damaged"),
    ],
)
def test_damaged_checkpoint_is_passed_over(
    finished: tuple[Path, dict[str, Tensor]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    """From step 10, in the middle of a log window, the rest of the run is the same again."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "run/step-00000012")
    assert_same_weights(run(tmp_path), finished[1])
    assert (tmp_path / "curve.jsonl").read_bytes() == (finished[0] / "curve.jsonl").read_bytes()
    printed = capsys.readouterr().err
    assert "step-00000012 is not used" in printed
    assert message in printed
    assert steps_of(tmp_path) == ["step-00000010", "step-00000012"]


@pytest.mark.parametrize(
    ("field", "broken"),
    [
        ("video", "loss is nan, loss_va is nan, loss_vt is nan"),
        ("audio", "loss is nan, loss_va is nan"),
    ],
)
def test_broken_numbers_end_the_run(tmp_path: Path, field: str, broken: str) -> None:
    def break_seventh(start_step: int) -> Iterator[Batch]:
        for step, batch in enumerate(open_batches(start_step), start=start_step + 1):
            values = torch.full_like(getattr(batch, field), torch.nan)
            yield replace(batch, **{field: values}) if step == 7 else batch

    with pytest.raises(StageError, match=f"step 7: {broken}; the checkpoint before it is kept"):
        run(tmp_path, batches=break_seventh)
    assert steps_of(tmp_path) == ["step-00000005"]


def test_data_that_ends_too_early_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="step 4: the data ended; expected 12 steps"):
        run(tmp_path, batches=lambda start: iter([make_batch(step) for step in range(3 - start)]))


def test_seeds_differ_by_step_and_run() -> None:
    counts = itertools.product(range(20), range(50), range(3))
    seeds = {derive_seed(seed, step, rank) for seed, step, rank in counts}
    assert len(seeds) == 3000
    assert max(seeds) < 2**63


def break_steps(*broken: int) -> Callable[[int], Iterator[Batch]]:
    """Return the batches of the tests, NaN in some steps."""

    def open_broken(start_step: int) -> Iterator[Batch]:
        for step, batch in enumerate(open_batches(start_step), start=start_step + 1):
            silent = torch.full_like(batch.video, torch.nan)
            yield replace(batch, video=silent) if step in broken else batch

    return open_broken


def run_guarded(
    directory: Path, batches: Callable[[int], Iterator[Batch]], **values: Any
) -> list[Any]:
    """Train; returns the rows of the curve and the weights."""
    updates = {"num_steps": 12, "log_every_steps": 1, **values}
    pretrain = PRETRAIN.model_copy(update=updates)
    engine = build_engine(pretrain=pretrain)
    return [train(engine, *build_run(directory, pretrain, batches)).rows, engine.gather_weights()]


def test_a_bad_step_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, weights = run_guarded(tmp_path, break_steps(7), on_bad_step="skip")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert "step 7 is left out: loss is nan" in capsys.readouterr().err
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert json.loads((tmp_path / "curve.jsonl").read_text().splitlines()[6])["step"] == 8


def test_a_run_rolls_back_behind_a_bad_step(tmp_path: Path) -> None:
    """At step 8 it goes on with the weights of step 5: steps 6 and 7 leave nothing in them."""
    rows, weights = run_guarded(tmp_path / "a", break_steps(8), on_bad_step="roll_back")
    _, others = run_guarded(tmp_path / "b", break_steps(6, 7, 8), on_bad_step="skip")
    assert_same_weights(weights, others)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12]


@pytest.mark.parametrize("on_bad_step", ["skip", "roll_back"])
def test_a_killed_run_decides_as_before(tmp_path: Path, on_bad_step: str) -> None:
    whole = run_guarded(tmp_path / "whole", break_steps(4, 8), on_bad_step=on_bad_step)

    def end_after_nine(start_step: int) -> Iterator[Batch]:
        steps = range(start_step + 1, 10)
        return (batch for _, batch in zip(steps, break_steps(4, 8)(start_step), strict=False))

    with pytest.raises(StageError, match="the data ended"):
        run_guarded(tmp_path / "killed", end_after_nine, on_bad_step=on_bad_step)
    rows, weights = run_guarded(tmp_path / "killed", break_steps(4, 8), on_bad_step=on_bad_step)
    assert rows == whole[0]
    assert_same_weights(weights, whole[1])


def test_too_many_bad_steps_end_the_run(tmp_path: Path) -> None:
    batches = break_steps(2, 4, 6)
    assert run_guarded(tmp_path / "a", batches, on_bad_step="skip", max_bad_steps=3)
    with pytest.raises(
        StageError, match=r"step 6: .*more bad steps than pretrain.max_bad_steps = 2"
    ):
        run_guarded(tmp_path / "b", batches, on_bad_step="skip", max_bad_steps=2)


def test_a_spike_is_a_multiple_of_the_running_median(tmp_path: Path) -> None:
    def judge(state: dict[str, Any], spike_factor: float | None) -> Records:
        pretrain = PRETRAIN.model_copy(update={"spike_factor": spike_factor})
        return Records(*build_run(tmp_path, pretrain), state)

    join_processes(LAUNCH)
    records = judge({}, 2.0)
    for loss in [9.0] * 19:
        records.accept([loss, 1.0, 1.0], 1.0)
    assert records.find_problem([100.0, 1.0, 1.0]) is None  # too early to tell
    for loss in [3.0] * 90:
        records.accept([loss, 1.0, 1.0], 1.0)
    assert records.find_problem([5.9, 1.0, 1.0]) is None  # of the last 100: nearly all are 3
    spike = "loss is 6.1, the median of the steps before is 3"
    assert records.find_problem([6.1, 1.0, 1.0]) == spike
    state = json.loads(json.dumps(records.state()))
    assert judge(state, 2.0).find_problem([6.1, 1.0, 1.0]) == spike
    assert judge(state, None).find_problem([1e9, 1.0, 1.0]) is None
    assert judge(state, None).find_problem([float("inf"), 1.0, 1.0]) == "loss is inf"
