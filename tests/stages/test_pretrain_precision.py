"""The stage in each precision on a CPU: how much of it is used, and what is warned of."""

import json
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from tests.stages.conftest import EXPORTED, RUN, SHORT
from tests.tiny import LOSS
from tests.train.corpus import LAUNCH
from vatt.params import TowerSize
from vatt.stages.pretrain import main

WIDE = TowerSize(num_layers=2, width=256, mlp_width=1024, num_heads=4, head_width=64)
NATIVE = {"bf16": "avx512_bf16", "fp16": "avx512_fp16"}


def train(precision: str, model: dict[str, object]) -> list[dict[str, float]]:
    """Run the stage, and return what it logged of its speed, step by step."""
    pretrain = SHORT.model_copy(update={"num_steps": 4, "log_every_steps": 1})
    launch = LAUNCH.model_copy(update={"precision": precision, "threads_per_process": 2})
    main(RUN, EXPORTED.clip, EXPORTED.model.model_copy(update=model), LOSS, pretrain, launch)
    (log,) = Path(".cache/pretrain").glob("*/speed.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_never_uses_more_than_the_machine_has(project: Path, precision: str) -> None:
    """Below 1 and not at it: the measured peak was not raised to what the run itself reached."""
    rows = train(precision, {"video": WIDE, "audio": WIDE, "text": WIDE})
    assert len(rows) == 4
    for row in rows:
        assert 0 < row["flop_utilisation"] < 1


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("is_native", [True, False])
def test_a_precision_that_the_cpu_emulates_is_said_before_training(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    *,
    is_native: bool,
) -> None:
    flags = MappingProxyType(dict.fromkeys(NATIVE.values(), is_native) | {"avx512_f": True})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    train(precision, {})
    lines = [line for line in capsys.readouterr().err.splitlines() if "emulated" in line]
    if is_native or precision == "fp32":
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f"pretrain: launch.precision = {precision}: this CPU has no instr")
        assert f"({NATIVE[precision]} or " in line
        assert "launch.precision: fp32" in line
