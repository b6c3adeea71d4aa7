"""kill -9 at random moments, then again: the same bits as without."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch


def run(directory: Path, seed: int, num_kills: int) -> list[int]:
    """Train with kills in processes of their own; returns the steps that each one reached."""
    directory.mkdir()
    arguments = [str(directory), str(seed), str(num_kills)]
    command = [sys.executable, "-m", "tests.train.killed_run", *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [int(line) for line in printed.splitlines() if line.isdigit()]


@pytest.mark.parametrize(
    ("seed", "num_kills"),
    [(1, 3), pytest.param(2, 30, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_killed_runs_give_the_same_bits(tmp_path: Path, seed: int, num_kills: int) -> None:
    assert run(tmp_path / "whole", seed, 0) == []
    reached = run(tmp_path / "killed", seed, num_kills)
    assert len(reached) == num_kills
    assert len(set(reached)) > 1  # not always at the same moment
    expected = torch.load(tmp_path / "whole/weights.pt", weights_only=True)
    found = torch.load(tmp_path / "killed/weights.pt", weights_only=True)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
    curves = [(tmp_path / name / "curve.jsonl").read_bytes() for name in ("whole", "killed")]
    assert curves[0] == curves[1]
