"""The schedule of fine-tuning against closed forms, its optimizers against their equations."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.model.networks import AUDIO_VISUAL
from tests.train.corpus import LAUNCH
from tests.train.tasks import TASK, build_objective, change, draw_batch
from vatt.model.classifier import build_network
from vatt.model.towers import collect_weights
from vatt.params import TaskParams
from vatt.train.engine import Engine
from vatt.train.finetuning import (
    ClassificationObjective,
    build_finetuning_optimizer,
    learning_rate,
    optimizer_settings,
)

SHAPES = ("cosine", "linear", "constant")
PAPER = change(TASK.model_copy(update={"num_steps": 100_000}), warmup_steps=2_500)
"""Kinetics."""


@pytest.mark.parametrize(
    ("shape", "step", "expected"),
    [
        ("cosine", 1, 0.005 / 2_500),
        *((shape, 1_250, 0.0025) for shape in SHAPES),
        *((shape, 2_500, 0.005) for shape in SHAPES),
        ("cosine", 26_875, 0.005 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the way: cos(pi/4)
        ("cosine", 51_250, 0.0025),
        ("cosine", 75_625, 0.005 * (1 - math.sqrt(0.5)) / 2),
        ("cosine", 100_000, 0.0),
        ("linear", 51_250, 0.0025),
        ("linear", 100_000, 0.0),
        ("constant", 51_250, 0.005),
        ("constant", 100_000, 0.005),
    ],
)
def test_schedules_of_the_paper_and_of_other_shapes(shape: str, step: int, expected: float) -> None:
    rate = learning_rate(step, change(PAPER, shape=shape))
    assert rate == pytest.approx(expected, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("shape", SHAPES)
def test_schedules_without_warmup_and_with_nothing_else(shape: str) -> None:
    at_once = change(TASK, shape=shape, warmup_steps=0)
    assert 0 < learning_rate(1, at_once) <= 0.005
    all_the_time = change(TASK, shape=shape, warmup_steps=TASK.num_steps)
    assert learning_rate(TASK.num_steps, all_the_time) == 0.005


def train(objective: ClassificationObjective, task: TaskParams) -> Iterator[int]:
    """Take all steps of a task along random gradients, which stay with the weights."""
    optimizer = build_finetuning_optimizer(objective, task)
    for step in range(1, task.num_steps + 1):
        for index, parameter in enumerate(objective.parameters()):
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(1000 * step + index)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        settings = optimizer_settings(step, task, optimizer)
        for group, values in zip(optimizer.param_groups, settings, strict=True):
            group.update(values)
        optimizer.step()
        yield step


def scale_of(name: str, layer_decay: float) -> float:
    """The rate of a weight of VIDEO, two blocks deep, against that of the head."""
    if ".stem." in name:
        return layer_decay**3
    for block in (0, 1):
        if f".blocks.{block}." in name:
            return layer_decay ** (2 - block)
    return 1.0


def is_matrix(name: str, weight: Tensor) -> bool:
    return weight.ndim == 2 and "positions" not in name


def follow_sgd(
    weight: Tensor, gradient: Tensor, moments: Tensor, rate: float, decay: float, _step: int
) -> Tensor:
    moments[0] = 0.9 * moments[0] + gradient + decay * weight
    return weight - rate * moments[0]


def follow_adamw(
    weight: Tensor, gradient: Tensor, moments: Tensor, rate: float, decay: float, step: int
) -> Tensor:
    moments[0] = 0.9 * moments[0] + 0.1 * gradient
    moments[1] = 0.999 * moments[1] + 0.001 * gradient**2
    mean, square = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
    return weight * (1 - rate * decay) - rate * mean / (square.sqrt() + 1e-8)


@pytest.mark.parametrize(("optimizer", "follow"), [("sgd", follow_sgd), ("adamw", follow_adamw)])
def test_optimizers_take_the_steps_of_their_equations(
    optimizer: str, follow: Callable[..., Tensor]
) -> None:
    """The moments are two tensors that `follow` writes to."""
    task = change(TASK, optimizer=optimizer, weight_decay=0.1, layer_decay=0.5)
    objective = build_objective(task)
    weights = {name: value.detach().double() for name, value in objective.named_parameters()}
    moments = {name: torch.zeros(2, *value.shape).double() for name, value in weights.items()}
    for step in train(objective, task):
        for name, parameter in objective.named_parameters():
            assert parameter.grad is not None
            rate = learning_rate(step, task) * scale_of(name, 0.5)
            decay = 0.1 if is_matrix(name, parameter) else 0.0
            gradient, state = parameter.grad.double(), moments[name]
            weights[name] = follow(weights[name], gradient, state, rate, decay, step)
    found = {name: value.detach().double() for name, value in objective.named_parameters()}
    torch.testing.assert_close(found, weights, rtol=1e-5, atol=2e-6)


def test_layers_of_both_towers_learn_by_their_own_depth() -> None:
    task = change(TASK, layer_decay=0.5)
    params = AUDIO_VISUAL["attention"]
    shallow = params.audio.size.model_copy(update={"num_layers": 1})
    torch.manual_seed(0)
    network = build_network(
        params.model_copy(update={"audio": params.audio.model_copy(update={"size": shallow})})
    )
    optimizer = build_finetuning_optimizer(ClassificationObjective(network, task), task)
    settings = optimizer_settings(task.schedule.warmup_steps, task, optimizer)
    rates = {
        parameter: values["lr"]
        for group, values in zip(optimizer.param_groups, settings, strict=True)
        for parameter in group["params"]
    }
    found = {name: rates[parameter] / 0.005 for name, parameter in network.named_parameters()}
    expected = {
        "head.bias": 1.0,
        "fusion.encoder.blocks.0.mlp.0.weight": 1.0,
        "video.encoder.norm.weight": 1.0,
        "video.encoder.blocks.1.mlp.0.weight": 0.5,
        "video.encoder.blocks.0.mlp.0.weight": 0.25,
        "video.stem.patches.projection.weight": 0.125,
        "audio.encoder.blocks.0.mlp.0.weight": 0.5,
        "audio.stem.agg_token.vector": 0.25,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("kind", [None, "tensor"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("freeze", ["none", "tower", 1])
def test_what_is_frozen_stays_as_it_is(freeze: str | int, optimizer: str, kind: str | None) -> None:
    task = change(TASK.model_copy(update={"freeze": freeze}), optimizer=optimizer, weight_decay=0.1)
    objective = build_objective(task, kind)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    for _ in train(objective, task):
        pass
    for name, parameter in objective.named_parameters():
        in_tower = any(f"model.{tower}." in name for tower in ("tower", "video", "audio"))
        is_low = in_tower and (".stem." in name or ".blocks.0." in name)
        frozen = {"none": False, "tower": in_tower, 1: is_low}[freeze]
        assert torch.equal(parameter, before[name]) == frozen, name


NUM_STEPS = 4
TASKS = {
    optimizer: change(
        TASK.model_copy(update={"num_steps": NUM_STEPS, "freeze": 1}),
        optimizer=optimizer,
        learning_rate=0.01,
        layer_decay=0.5,
        weight_decay=0.1,
        mixup_alpha=5.0,
    )
    for optimizer in ("sgd", "adamw")
}


def train_plainly(task: TaskParams) -> dict[str, Tensor]:
    torch.set_num_threads(LAUNCH.threads_per_process)
    objective = build_objective(task, "bilinear")
    optimizer = build_finetuning_optimizer(objective, task)
    for step in range(1, NUM_STEPS + 1):
        torch.manual_seed(step)
        objective(draw_batch(seed=step))[0].backward()
        for group, settings in zip(
            optimizer.param_groups, optimizer_settings(step, task, optimizer), strict=True
        ):
            group.update(settings)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_update()
    return collect_weights(objective)


def open_engine(task: TaskParams, zero_stage: int) -> tuple[Engine, Callable[[int], None]]:
    """Return an engine, and what takes one of its steps."""
    objective = build_objective(task, "bilinear")
    optimizer = build_finetuning_optimizer(objective, task)
    engine = Engine(
        objective, optimizer, task, LAUNCH.model_copy(update={"zero_stage": zero_stage})
    )

    def take_step(step: int) -> None:
        torch.manual_seed(step)
        losses = engine.compute_losses(draw_batch(seed=step))
        engine.update(losses[0], optimizer_settings(step, task, optimizer))

    return engine, take_step


# Not AdamW under stage 3, whose products come in another order: where a gradient is 0 but for
# rounding (key biases), Adam makes a step of the rounding.
@pytest.mark.parametrize(
    ("optimizer", "zero_stage", "next_stage"),
    [("sgd", 0, 2), ("sgd", 3, 3), ("adamw", 1, 0), ("adamw", 2, 1)],
)
def test_half_a_run_each_under_two_stages_is_a_plain_loop(
    optimizer: str, zero_stage: int, next_stage: int
) -> None:
    ema_decay = None if zero_stage == 3 else 0.9
    task = TASKS[optimizer].model_copy(update={"ema_decay": ema_decay})
    expected = train_plainly(task)
    engine, take_step = open_engine(task, zero_stage)
    for step in range(1, NUM_STEPS // 2 + 1):
        take_step(step)
    state, counts = engine.gather_state(), engine.counts()
    engine, take_step = open_engine(task, next_stage)
    engine.restore_state(state, counts)
    for step in range(NUM_STEPS // 2 + 1, NUM_STEPS + 1):
        take_step(step)
    found = engine.gather_weights()
    first = collect_weights(build_objective(task, "bilinear"))
    frozen = [name for name in found if torch.equal(found[name], first[name])]
    assert {name for name in frozen if "model" in name and found[name].is_floating_point()} == {
        name
        for name in expected
        if name.startswith("model.") and (".stem." in name or ".blocks.0." in name)
    }
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
