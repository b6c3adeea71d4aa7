"""Checkpoints: which stay, which are believed, what a full disk does."""

import random
from pathlib import Path

import pytest
import torch

from tests.train.corpus import PRETRAIN, build_engine, make_batch
from vatt.core.errors import StageError
from vatt.train.checkpoint import Checkpoints, find_damage
from vatt.train.pretraining import adam_settings

FILES = ["complete.json", "run.json", "state.safetensors"]


def save_some(directory: Path, *steps: int, keep_every_steps: int | None = None) -> None:
    pretrain = PRETRAIN.model_copy(update={"keep_every_steps": keep_every_steps})
    engine = build_engine()
    with Checkpoints(directory, pretrain) as checkpoints:
        for step in steps:
            checkpoints.save(engine, step, {"rows": [step]})


def test_the_newest_and_every_so_many_stay(tmp_path: Path) -> None:
    save_some(tmp_path, 5, 10, 15, 20, 25, 30, 35, keep_every_steps=15)
    kept = [int(folder.name[5:]) for folder in sorted(tmp_path.iterdir())]
    assert kept == [15, 30, 35]


def test_a_half_written_one_counts_for_nothing(tmp_path: Path) -> None:
    save_some(tmp_path, 5, 10)
    (tmp_path / "step-00000010" / "complete.json").unlink()
    save_some(tmp_path, 15)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [
        "step-00000005",
        "step-00000015",
    ]


def test_what_is_written_is_what_was_copied(tmp_path: Path) -> None:
    """Training goes on at once, in the very memory that was saved."""
    engine = build_engine()
    with Checkpoints(tmp_path, PRETRAIN) as checkpoints:
        for step in (1, 2, 3):
            engine.update(
                engine.compute_losses(make_batch(step))[0], [adam_settings(step, PRETRAIN)]
            )
            saved = engine.gather_state()
            checkpoints.save(engine, step, {})
        engine.update(engine.compute_losses(make_batch(4))[0], [adam_settings(4, PRETRAIN)])
    other = build_engine()
    with Checkpoints(tmp_path, PRETRAIN) as checkpoints:
        assert checkpoints.resume(other) == (3, {})
    torch.testing.assert_close(other.gather_state(), saved, rtol=0, atol=0)


@pytest.mark.parametrize("name", FILES)
def test_no_damage_is_overlooked(tmp_path: Path, name: str) -> None:
    """Any bit, any length, no file: known, or else of no effect (as a space in JSON)."""
    save_some(tmp_path, 5)
    folder, generator = tmp_path / "step-00000005", random.Random(name)
    assert find_damage(folder) is None
    content = (folder / name).read_bytes()
    for _ in range(40):
        changed = bytearray(content)
        changed[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        (folder / name).write_bytes(changed)
        assert find_damage(folder) is not None or changed.split() == content.split(), changed
        (folder / name).write_bytes(content[: generator.randrange(len(content) - 1)])
        assert find_damage(folder) == f"{name} is damaged"
    (folder / name).unlink()
    assert find_damage(folder) in {f"{name} is missing", "half-written"}


@pytest.mark.parametrize(
    "problem",
    [
        OSError(28, "No space left on device"),
        UnicodeEncodeError("utf-8", "", 0, 1, "No space left on device"),  # takes five arguments
    ],
)
def test_what_could_not_be_written_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    save_some(tmp_path, 5)

    def refuse(_tensors: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise problem

    monkeypatch.setattr("vatt.train.checkpoint.save_file", refuse)
    with pytest.raises(StageError, match=r"step-00000010: .*No space left on device"):
        save_some(tmp_path, 10)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000005"]
