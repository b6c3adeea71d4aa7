"""Search spaces in params.yaml: what is refused, and by what name."""

from pathlib import Path
from typing import Any

import pytest

from tests.test_params import changed, refusal

LEARNING_RATE = {"low": 1.0e-4, "high": 1.0, "log": True}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"speed": {"low": 0, "high": 1}}, "space.speed: is no key of a schedule; there are learning"),
    ({"momentum": {"low": 0.0, "high": 1.0}}, "space.momentum: 1.0: Input should be less than 1"),
    ({"warmup_steps": {"low": 0, "high": 1.5}}, "space.warmup_steps: 1.5: Input should be a valid"),
    ({"shape": {"choices": ["square"]}}, "space.shape: 'square': Input should be 'cosine'"),
    ({"learning_rate": {"low": 0.1, "high": 0.1}}, "low = 0.1 must be below high = 0.1"),
    ({"weight_decay": {"low": 0.0, "high": 0.1, "log": True}}, "log = true needs low above 0"),
    ({"momentum": {"low": 0.5}}, "tune.space.momentum.between.high: is missing"),
    ({"momentum": {"choices": []}}, "should have at least 1 item"),
    ({}, "should have at least 1 item"),
]


@pytest.mark.parametrize(("space", "expected"), REFUSED)
def test_an_impossible_space_is_refused(
    tmp_path: Path, space: dict[str, Any], expected: str
) -> None:
    message = refusal(tmp_path, changed({"tune.space": space}))
    assert "tune" in message
    assert expected in message


def test_a_space_holds_the_schedules_that_are_tried_first(tmp_path: Path) -> None:
    changes = {
        "tune.space": {"learning_rate": LEARNING_RATE},
        "finetune.audio.schedule.learning_rate": 2.0,
    }
    expected = "tune.space.learning_rate does not hold finetune.audio.schedule.learning_rate = 2.0"
    assert expected in refusal(tmp_path, changed(changes))


def test_a_warmup_is_not_longer_than_training(tmp_path: Path) -> None:
    changes = {
        "tune.space": {"warmup_steps": {"low": 0, "high": 40}},
        "finetune.image.num_steps": 30,
    }
    expected = "tune.space.warmup_steps goes beyond finetune.image.num_steps = 30"
    assert expected in refusal(tmp_path, changed(changes))


def test_a_file_is_no_server(tmp_path: Path) -> None:
    message = refusal(tmp_path, changed({"tune.storage": "sqlite:///studies.db"}))
    assert "tune.storage = 'sqlite:///studies.db'" in message
