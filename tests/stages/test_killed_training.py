"""kill -9 of a training at random moments, then again: the same bits as without."""

import shutil
from pathlib import Path

import pytest

from tests.stages.conftest import copy_project, run_module

OUTPUTS = {
    "pretrain": ("data/pretrain/model.safetensors", "metrics/pretrain_curve.jsonl"),
    "finetune": tuple(
        f"data/finetune/video/{name}"
        for name in ("model/model.safetensors", "curve.jsonl", "validation.jsonl")
    ),
}
LONG = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    ("stage", "seed", "num_kills"),
    [
        ("pretrain", 5, 2),
        pytest.param("pretrain", 2, 30, marks=LONG),
        ("finetune", 1, 2),
        pytest.param("finetune", 2, 20, marks=LONG),
    ],
)
def test_a_killed_stage_gives_the_same_bits(
    project: Path, stage: str, seed: int, num_kills: int
) -> None:
    """Shards, a loader worker, checkpoints, export are those of `python -m vatt pretrain`."""
    if stage == "pretrain":
        shutil.rmtree("data/pretrain")
        Path("metrics/pretrain_curve.jsonl").unlink()
    killed = copy_project()
    arguments = (stage, str(project), str(killed), str(seed), str(num_kills))
    printed = run_module("tests.stages.killed_training", *arguments).stdout
    reached = [int(line) for line in printed.splitlines() if line.isdigit()]
    assert len(reached) == num_kills
    for name in OUTPUTS[stage]:
        assert Path(name).read_bytes() == (killed / name).read_bytes(), name
    if stage == "finetune":
        assert len(Path(OUTPUTS[stage][-1]).read_bytes().splitlines()) == 3
    else:
        assert num_kills < 3 or len(set(reached)) > 2  # not always at the same moment
        num_steps = len(Path(OUTPUTS[stage][-1]).read_bytes().splitlines())
        assert max(reached) < num_steps
        print(f"killed at {reached} of {num_steps} steps")
