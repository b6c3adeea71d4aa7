"""Combinations of the parameters of fine-tuning that are not possible are refused by name."""

from pathlib import Path
from typing import Any

import pytest

from tests.params.test_params import BASE, changed, refusal

# Each is possible alone; together they are not. The message holds every part of `named`.
COMBINATIONS: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"finetune.audio.schedule.warmup_steps": 9, "finetune.audio.num_steps": 8},
        ["finetune.audio.warmup_steps = 9", "finetune.audio.num_steps = 8"],
    ),
    (
        {"finetune.image.batch_size": 33, "finetune.image.accumulation_steps": 2},
        ["finetune.image.batch_size = 33", "finetune.image.accumulation_steps = 2"],
    ),
    ({"finetune.video.fusion": "tensor"}, ["finetune.video.fusion = tensor: there is nothing"]),
    ({"finetune.audio_visual.fusion": None}, ["finetune.audio_visual.fusion = None: a way"]),
    (
        {"finetune.video.ema_decay": 0.9, "launch.zero_stage": 3},
        ["finetune.video.ema_decay = 0.9 needs launch.zero_stage 0, 1 or 2"],
    ),
    ({"finetune.image.num_frames": 3}, ["finetune.image: 3 frames of 64 pixels", "(2, 8, 8)"]),
    (
        {"finetune.audio.num_samples": 76800, "finetune.audio.audio_stride": 4},
        ["finetune.audio: 76800 samples", "finetune.audio.audio_stride = 4"],
    ),
    ({"finetune.video.frame_size_px": 128}, ["finetune.video: frames of 128 pixels", "= 64"]),
]


@pytest.mark.parametrize(("changes", "named"), COMBINATIONS)
def test_an_impossible_combination_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: list[str]
) -> None:
    message = refusal(tmp_path, changed(BASE | changes))
    assert [part for part in named if part not in message] == []
    assert ";" not in message  # one rule is broken, one is reported
