"""DeepSpeed through the engine against a plain PyTorch loop, on one process and on two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.train.corpus import (
    LAUNCH,
    MODEL,
    PRETRAIN,
    SHARED_MODEL,
    build_engine,
    build_objective,
    make_batch,
)
from tests.train.two_ranks import LAST_STEPS, NUM_STEPS, PHASED, VARIANTS, train_until
from vatt.model.towers import collect_weights
from vatt.params import ModelParams
from vatt.train.pretraining import adam_settings, build_optimizer


def train_plainly(
    num_steps: int, model: ModelParams = MODEL
) -> tuple[list[list[float]], dict[str, Tensor]]:
    """Return losses and gradient norm of each step, and the weights, without DeepSpeed."""
    torch.set_num_threads(LAUNCH.threads_per_process)
    objective = build_objective(model)
    optimizer = build_optimizer(objective.parameters(), PRETRAIN)
    rows = []
    for step in range(1, num_steps + 1):
        losses = objective(make_batch(step))
        optimizer.zero_grad()
        losses[0].backward()
        norm = nn.utils.get_total_norm(
            [p.grad for p in objective.parameters() if p.grad is not None]
        )
        optimizer.param_groups[0].update(adam_settings(step, PRETRAIN))
        optimizer.step()
        rows.append([*losses.tolist(), norm.item()])
    return rows, collect_weights(objective)


@pytest.mark.parametrize(
    ("zero_stage", "tolerance"),
    [(0, 0.0), (1, 0.0), (2, 0.0), (3, 1e-4)],  # stage 3 multiplies matrices in another order
)
def test_one_process_is_a_plain_loop(zero_stage: int, tolerance: float) -> None:
    rows, weights = train_plainly(NUM_STEPS)
    engine = build_engine(zero_stage=zero_stage)
    for step, expected in enumerate(rows, start=1):
        losses = engine.compute_losses(make_batch(step))
        norm = engine.update(losses[0], [adam_settings(step, PRETRAIN)])
        assert [*losses.tolist(), norm] == pytest.approx(expected, rel=max(tolerance, 1e-6))
    torch.testing.assert_close(engine.gather_weights(), weights, rtol=tolerance, atol=tolerance)


def test_bf16_stays_near_float32_and_keeps_float32_weights() -> None:
    rows, _ = train_plainly(3)
    engine = build_engine(precision="bf16")
    losses = engine.compute_losses(make_batch(1))
    engine.update(losses[0], [{"lr": 1e-3}])
    assert losses.tolist() == pytest.approx(rows[0][:3], rel=0.05)
    assert losses.tolist() != rows[0][:3]
    assert {weight.dtype for weight in engine.gather_weights().values()} == {torch.float32}


def test_gradients_are_clipped_only_when_asked() -> None:
    """DeepSpeed by default clips at 1; Adam's first step hides the scale, its second does not."""

    def second_step(clip_norm: float) -> Tensor:
        pretrain = PRETRAIN.model_copy(update={"gradient_clip_norm": clip_norm})
        engine = build_engine(pretrain=pretrain)
        for step in (1, 2):
            engine.update(engine.compute_losses(make_batch(step))[0] * 10**step, [{"lr": 1e-3}])
        return engine.gather_weights()["model.audio_projection.weight"]

    free, loose, tight = second_step(0.0), second_step(1e6), second_step(1e-2)
    torch.testing.assert_close(free, loose, rtol=0, atol=0)
    assert (free - tight).abs().max() > 1e-5


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where two ranks, one and two again left what they computed."""
    directory = tmp_path_factory.mktemp("two_ranks")
    for name in ("specific", "shared"):
        (directory / name).mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.train.two_ranks", str(directory)]
    subprocess.run([*command, "1"], check=True)
    train_until(LAST_STEPS[1], 1, directory)
    subprocess.run([*command, "3"], check=True)
    return directory


@pytest.mark.parametrize(("name", "model"), [("specific", MODEL), ("shared", SHARED_MODEL)])
def test_two_processes_are_one_with_the_whole_batch(
    two_ranks: Path, name: str, model: ModelParams
) -> None:
    """Each rank has other clips, some without sound or text, under each ZeRO stage and offload."""
    paths = sorted(two_ranks.glob(f"{name}/*.json"))
    assert len(paths) == {"specific": len(VARIANTS), "shared": 2}[name]
    expected_rows, weights = train_plainly(len(json.loads(paths[0].read_text())), model)
    for path in paths:
        rows = json.loads(path.read_text())
        for row, expected in zip(rows, expected_rows, strict=True):
            assert row == pytest.approx(expected, rel=1e-4), path.stem
        trained = torch.load(path.with_suffix(".pt"), weights_only=True)
        torch.testing.assert_close(trained, weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", PHASED)
def test_a_run_goes_on_with_other_numbers_of_ranks(two_ranks: Path, variant: str) -> None:
    """Two ranks, one, two: the losses are those of one run, under each ZeRO stage."""
    rows, _ = train_plainly(LAST_STEPS[-1])
    found = [
        json.loads(line) for line in (two_ranks / variant / "curve.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in found] == list(range(1, LAST_STEPS[-1] + 1))
    for row, expected in zip(found, rows, strict=True):
        numbers = [row["loss"], row["loss_va"], row["loss_vt"], row["gradient_norm"]]
        assert numbers == pytest.approx(expected, rel=1e-4), row["step"]
