"""kill -9 of the stage and then again gives the same bits; two ranks compute what one does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import Ranks
from tests.stages.test_finetune import LETTER, pass_validation, sections
from tests.train.corpus import LAUNCH
from vatt.params import LaunchParams
from vatt.stages.finetune import prepare_task
from vatt.train.finetuning import read_validations
from vatt.train.recipe import Job
from vatt.train.worker import run_job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def validated(project: Path) -> Path:
    pass_validation()
    return project


@pytest.mark.parametrize(
    ("seed", "num_kills"),
    [(1, 2), pytest.param(2, 20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_a_killed_stage_gives_the_same_bits(validated: Path, seed: int, num_kills: int) -> None:
    killed = validated / "killed"
    shutil.copytree(validated, killed, ignore=shutil.ignore_patterns("killed"))
    arguments = [str(validated), str(killed), str(seed), str(num_kills)]
    command = [sys.executable, "-m", "tests.stages.killed_finetune", *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    reached = [line for line in printed.stdout.splitlines() if line.isdigit()]
    assert len(reached) == num_kills
    for name in ("model/model.safetensors", "curve.jsonl", "validation.jsonl"):
        path = Path("data/finetune/video") / name
        assert path.read_bytes() == (killed / path).read_bytes(), name
    assert len(Path("data/finetune/video/validation.jsonl").read_bytes().splitlines()) == 3


def share(job: Job, launch: LaunchParams, directory: Path) -> Job:
    """Return the job for other ranks, in a folder of its own."""
    updates = {
        "recipe": job.recipe.model_copy(update={"launch": launch}),
        "directory": directory,
        "curve_path": directory / "curve.jsonl",
    }
    return job.model_copy(update=updates)


def train_in(folder: Path, jobs: list[Job]) -> None:
    os.chdir(folder)
    for job in jobs:
        run_job(job)


VARIANTS = [("sgd", 2), ("sgd", 1), ("sgd", 3), ("adamw", 1), ("adamw", 3)]


def choose_sections(optimizer: str, zero_stage: int) -> dict[str, Any]:
    rates = {"sgd": 0.05, "adamw": 1e-3}
    schedule = LETTER.schedule.model_copy(
        update={"optimizer": optimizer, "learning_rate": rates[optimizer], "layer_decay": 0.8}
    )
    return sections(
        num_steps=4,
        batch_size=4,
        checkpoint_every_steps=3,
        keep_checkpoints=2,
        validate_every_steps=2,
        ema_decay=0.5 if zero_stage < 3 else None,
        schedule=schedule.model_dump(),
    )


@pytest.mark.slow  # tests/train/test_finetuning_engine.py goes through all stages on one process
def test_two_ranks_compute_what_one_process_does(validated: Path) -> None:
    """Both see the same batches; nothing random is in the network."""
    jobs, shared = [], []
    for optimizer, zero_stage in VARIANTS:
        job, _, _ = prepare_task(**choose_sections(optimizer, zero_stage))
        jobs.append(job)
        launch = LAUNCH.model_copy(update={"num_processes": 2, "zero_stage": zero_stage})
        shared.append(share(jobs[-1], launch, validated / f"{optimizer}-{zero_stage}"))
    with Ranks(2) as ranks:
        ranks.run(train_in, validated, shared)
    for alone, together in zip(jobs, shared, strict=True):
        run_job(alone)
        assert_close(together, alone)
        for found, expected in zip(
            read_validations(together), read_validations(alone), strict=True
        ):
            assert found == pytest.approx(expected, rel=1e-3)
        # What two ranks left, one takes up; the last checkpoint is gone.
        together.weights_path.unlink()
        shutil.rmtree(together.directory / "step-00000004")
        run_job(share(together, LAUNCH, together.directory))
        assert_close(together, alone)


def assert_close(job: Job, other: Job) -> None:
    """Compare the weights that two jobs left.

    Biases of keys have no gradient but rounding errors, which Adam makes as large as any other.
    """
    found, expected = load_file(job.weights_path), load_file(other.weights_path)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        if not name.endswith("key_value.bias"):
            torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4, msg=name)
