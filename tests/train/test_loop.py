"""Whole short runs: resuming, damaged checkpoints, broken numbers."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.train.corpus import MODEL, PRETRAIN, build_engine, build_run, make_batch, open_batches
from vatt.core.batch import Batch
from vatt.core.errors import StageError
from vatt.train.loop import derive_seed, train

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


def assert_same_weights(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


def test_newest_checkpoints_stay(finished: tuple[Path, dict[str, Tensor]]) -> None:
    assert steps_of(finished[0]) == ["step-00000010", "step-00000012"]


def test_curve_holds_window_means(finished: tuple[Path, dict[str, Tensor]]) -> None:
    rows = [json.loads(line) for line in (finished[0] / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert rows[0].keys() == {
        *("step", "loss", "loss_va", "loss_vt", "gradient_norm", "learning_rate")
    }
    for row in rows:
        assert row["loss"] == pytest.approx((row["loss_va"] + row["loss_vt"]) / 2, rel=1e-6)


def test_speed_is_logged_apart(finished: tuple[Path, dict[str, Tensor]]) -> None:
    rows = [json.loads(line) for line in (finished[0] / "run/speed.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert all(0 <= row["waiting_rate"] <= 1 and row["clips_per_second"] > 0 for row in rows)


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
    seeds = {derive_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**63
