"""kill -9 of the stage at random moments, then again: the same bits as without."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.campaign import ROOT, pass_validation


@pytest.mark.parametrize(
    ("seed", "num_kills"),
    [(5, 2), pytest.param(2, 30, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_a_killed_stage_gives_the_same_bits(project: Path, seed: int, num_kills: int) -> None:
    """Shards, a loader worker, checkpoints, export are those of `python -m vatt pretrain`."""
    pass_validation()
    shutil.rmtree("data/pretrain")
    Path("metrics/pretrain_curve.jsonl").unlink()
    killed = project / "killed"
    shutil.copytree(project, killed, ignore=shutil.ignore_patterns("killed"))
    arguments = [str(project), str(killed), str(seed), str(num_kills)]
    command = [sys.executable, "-m", "tests.stages.killed_pretrain", *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    reached = [int(line) for line in printed.stdout.splitlines() if line.isdigit()]
    assert len(reached) == num_kills
    assert num_kills < 3 or len(set(reached)) > 2  # not always at the same moment
    for name in ("data/pretrain/model.safetensors", "metrics/pretrain_curve.jsonl"):
        assert Path(name).read_bytes() == (killed / name).read_bytes(), name
    num_steps = len(Path("metrics/pretrain_curve.jsonl").read_bytes().splitlines())
    assert max(reached) < num_steps
    print(f"killed at {reached} of {num_steps} steps")
