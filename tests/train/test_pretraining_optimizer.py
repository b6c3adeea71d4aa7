"""The schedule against closed forms, Adam against its equations."""

import math

import pytest
import torch
from torch import nn

from tests.model.original import Original
from tests.train.corpus import PRETRAIN
from vatt.train.pretraining import adam_settings, build_optimizer, learning_rate

PAPER = PRETRAIN.model_copy(
    update={"num_steps": 500_000, "warmup_steps": 10_000, "learning_rate": 1e-4}
)
RELEASED = PAPER.model_copy(update={"schedule": "released", "warmup_steps": 5_000})


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, 1e-8),
        (5_000, 0.5e-4),
        (10_000, 1e-4),
        (255_000, 1e-4 * (1 + math.sqrt(0.5)) / 2),  # cos(pi/4)
        (500_000, 0.5e-4),
    ],
)
def test_schedule_of_the_paper(step: int, expected: float) -> None:
    assert learning_rate(step, PAPER) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, 2e-8),
        (2_500, 0.5e-4),
        (5_000, 1e-4),
        (128_750, 0.5e-4 + 0.5e-4 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the way: cos(pi/4)
        (252_500, 0.75e-4),  # half way: cos(pi/2)
        (376_250, 0.5e-4 + 0.5e-4 * (1 - math.sqrt(0.5)) / 2),
        (500_000, 0.5e-4),
    ],
)
def test_released_schedule(step: int, expected: float) -> None:
    assert learning_rate(step, RELEASED) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", ["paper", "released"])
def test_schedule_rises_then_falls(schedule: str) -> None:
    params = PRETRAIN.model_copy(update={"schedule": schedule})
    rates = [learning_rate(step, params) for step in range(1, PRETRAIN.num_steps + 1)]
    peak = rates.index(max(rates))
    assert peak == PRETRAIN.warmup_steps - 1
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize("schedule", ["paper", "released"])
@pytest.mark.parametrize("warmup_steps", [0, PRETRAIN.num_steps])
def test_schedule_without_warmup_and_with_nothing_else(warmup_steps: int, schedule: str) -> None:
    params = PRETRAIN.model_copy(update={"warmup_steps": warmup_steps, "schedule": schedule})
    assert learning_rate(PRETRAIN.num_steps, params) == pytest.approx(
        params.learning_rate * (1 if warmup_steps else 0.5)
    )


def test_adam_takes_the_step_of_the_originals_equations() -> None:
    """Keras adds epsilon to the second moment as it is, and corrects both biases afterwards."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    optimizer = build_optimizer([weight, frozen], PRETRAIN)
    expected = weight.detach().clone()
    first, second = torch.zeros(3), torch.zeros(3)
    for step in range(1, 9):
        weight.grad = torch.tensor([0.1 * step, -1e-6, 1e-3], dtype=torch.float64)
        first = 0.9 * first + 0.1 * weight.grad
        second = 0.999 * second + 0.001 * weight.grad**2
        rate = learning_rate(step, PRETRAIN) * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        expected -= rate * first / (second.sqrt() + PRETRAIN.adam_epsilon)
        optimizer.param_groups[0].update(adam_settings(step, PRETRAIN))
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=0)
    assert float(frozen) == 1


@pytest.mark.parametrize("name", ["ms", "ma"])
def test_adam_takes_the_step_of_the_original(name: str) -> None:
    """With the original's gradients.

    With PyTorch's place of epsilon some weights would be off by 0.7 of the step.
    """
    original = Original(name)
    gradients, after = original.group("g::"), original.group("adam_after::")
    assert gradients.keys() == after.keys()
    weights = {key: nn.Parameter(original.tensor(f"w::{key}")) for key in gradients}
    pretrain = PAPER.model_copy(update={"warmup_steps": 1, "adam_epsilon": 1e-7})
    optimizer = build_optimizer(weights.values(), pretrain)
    optimizer.param_groups[0].update(adam_settings(1, pretrain))
    for key, weight in weights.items():
        weight.grad = torch.from_numpy(gradients[key])
    optimizer.step()
    for key, weight in weights.items():
        torch.testing.assert_close(
            weight.detach(), torch.from_numpy(after[key]), rtol=2e-7, atol=1e-8, msg=key
        )
