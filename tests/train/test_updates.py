"""Updates of the engine: parts of a batch, broken gradients, fp16, compiled networks."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.train.corpus import PRETRAIN, build_engine, build_objective, make_batch, take_rows
from vatt.core.errors import StageError
from vatt.train import engine as engine_module
from vatt.train.engine import Engine
from vatt.train.pretraining import adam_settings, build_optimizer

PER_STAGE = pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])


def open_engine(zero_stage: int, accumulation_steps: int = 1, **launch: Any) -> Engine:
    pretrain = PRETRAIN.model_copy(update={"accumulation_steps": accumulation_steps})
    return build_engine(pretrain=pretrain, zero_stage=zero_stage, **launch)


def take_step(engine: Engine, step: int, num_parts: int = 1, scale: float = 1.0) -> float:
    """Train on the batch of a step in parts; returns the gradient's norm."""
    batch, size = make_batch(step), PRETRAIN.batch_size // num_parts
    for part in range(num_parts):
        losses = engine.compute_losses(take_rows(batch, slice(part * size, (part + 1) * size)))
        if part < num_parts - 1:
            engine.accumulate(losses[0])
    return engine.update(losses[0] * scale, [adam_settings(step, PRETRAIN)])


def assert_same(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0
) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@PER_STAGE
def test_parts_of_a_batch_add_up(zero_stage: int) -> None:
    """The gradient is the mean of those of the parts, each with the negatives of its own clips."""
    engine = open_engine(zero_stage, accumulation_steps=2)
    objective = build_objective()
    optimizer = build_optimizer(objective.parameters(), PRETRAIN)
    for step in (1, 2, 3):
        norm = take_step(engine, step, num_parts=2)
        optimizer.zero_grad()
        for rows in (slice(0, 4), slice(4, 8)):
            (objective(take_rows(make_batch(step), rows))[0] / 2).backward()
        gradients = [p.grad for p in objective.parameters() if p.grad is not None]
        assert norm == pytest.approx(float(nn.utils.get_total_norm(gradients)), rel=1e-5)
        optimizer.param_groups[0].update(adam_settings(step, PRETRAIN))
        optimizer.step()
    weights = dict(objective.state_dict())
    torch.testing.assert_close(engine.gather_weights(), weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("zero_stage", "num_parts"), [(0, 1), (0, 2), (1, 2), (2, 1), (3, 2)])
def test_a_gradient_that_is_not_finite_leaves_no_trace(zero_stage: int, num_parts: int) -> None:
    broken, whole = (open_engine(zero_stage, num_parts) for _ in range(2))
    for engine in (broken, whole):
        take_step(engine, 1, num_parts)
    before = broken.gather_state()
    assert take_step(broken, 2, num_parts, scale=math.nan) == math.inf
    assert_same(broken.gather_state(), before)
    for engine in (broken, whole):
        assert math.isfinite(take_step(engine, 3, num_parts))
    assert_same(broken.gather_state(), whole.gather_state())
    assert broken.counts() == whole.counts() == {"num_updates": 2.0}


@PER_STAGE
def test_fp16_halves_its_scale_until_gradients_fit(
    zero_stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = take_step(open_engine(zero_stage), 1)
    monkeypatch.setattr(engine_module, "FIRST_LOSS_SCALE", 2.0**26)
    monkeypatch.setattr(engine_module, "GROWTH_STEPS", 2)
    engine = open_engine(zero_stage, precision="fp16")
    before = engine.gather_state()
    norms: list[float] = []
    while not norms or math.isinf(norms[-1]):
        assert_same(engine.gather_state(), before)
        norms.append(take_step(engine, 1))
    assert len(norms) > 5
    assert engine.loss_scale == 2.0 ** (26 - (len(norms) - 1))
    assert norms[-1] == pytest.approx(expected, rel=0.05)
    scale = engine.loss_scale
    take_step(engine, 2)
    assert engine.loss_scale in (2 * scale, scale / 2)  # grown after two steps, or too large again
    assert {tensor.dtype for tensor in engine.gather_weights().values()} == {torch.float32}


def test_fp16_gives_up_when_nothing_fits() -> None:
    engine = open_engine(1, precision="fp16")
    engine.loss_scale = 1.0
    with pytest.raises(StageError, match="overflow at every loss scale"):
        take_step(engine, 1, scale=math.inf)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_state_moves_to_another_stage(precision: str) -> None:
    """What one stage gathered, another goes on with; in fp16 with its loss scale."""
    first = open_engine(1, precision=precision)
    for step in (1, 2):
        take_step(first, step)
    state, counts = first.gather_state(), first.counts()
    take_step(first, 3)
    for zero_stage in (0, 3):
        second = open_engine(zero_stage, precision=precision)
        second.restore_state(state, counts)
        assert_same(second.gather_state(), state)
        assert second.counts() == counts
        take_step(second, 3)
        tolerance = 1e-6 if precision == "fp32" else 1e-3
        assert_same(second.gather_state(), first.gather_state(), tolerance)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_compiled_network_trains_alike(num_ranks: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_ranks}", "-m", "tests.train.compiled_run"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("[[")]
    assert len(rows) == 4
    for plain, compiled in rows:
        assert compiled[:4] == pytest.approx(plain[:4], rel=1e-3)
    print("seconds, plain and compiled:", [[plain[4], compiled[4]] for plain, compiled in rows])
