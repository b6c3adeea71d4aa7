"""The schedule of fine-tuning against closed forms, its optimizers against their equations."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.model.networks import AUDIO_VISUAL, VIDEO
from tests.train.tasks import TASK, change
from vatt.model.classifier import build_network
from vatt.params import TaskParams
from vatt.train.classification import (
    ClassificationObjective,
    build_finetuning_optimizer,
    learning_rate,
    optimizer_settings,
)

PAPER = change(
    TASK.model_copy(update={"num_steps": 100_000}),
    learning_rate=0.005,
    warmup_steps=2_500,
    shape="cosine",
)
"""Kinetics."""


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, 0.005 / 2_500),
        (1_250, 0.0025),
        (2_500, 0.005),
        (26_875, 0.005 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the way: cos(pi/4)
        (51_250, 0.0025),
        (75_625, 0.005 * (1 - math.sqrt(0.5)) / 2),
        (100_000, 0.0),
    ],
)
def test_schedule_of_the_paper(step: int, expected: float) -> None:
    assert learning_rate(step, PAPER) == pytest.approx(expected, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(
    ("shape", "half_way", "at_the_end"), [("linear", 0.0025, 0.0), ("constant", 0.005, 0.005)]
)
def test_other_shapes(shape: str, half_way: float, at_the_end: float) -> None:
    task = change(PAPER, shape=shape)
    assert learning_rate(1_250, task) == pytest.approx(0.0025)
    assert learning_rate(2_500, task) == pytest.approx(0.005)
    assert learning_rate(51_250, task) == pytest.approx(half_way)
    assert learning_rate(100_000, task) == pytest.approx(at_the_end)


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
def test_schedules_without_warmup_and_with_nothing_else(shape: str) -> None:
    at_once = change(TASK, shape=shape, warmup_steps=0)
    assert 0 < learning_rate(1, at_once) <= 0.005
    all_the_time = change(TASK, shape=shape, warmup_steps=TASK.num_steps)
    assert learning_rate(TASK.num_steps, all_the_time) == 0.005


def build(task: TaskParams, kind: str | None = None) -> ClassificationObjective:
    torch.manual_seed(0)
    return ClassificationObjective(build_network(AUDIO_VISUAL[kind] if kind else VIDEO), task)


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


def test_sgd_takes_the_steps_of_its_equations() -> None:
    task = change(TASK, weight_decay=0.1, layer_decay=0.5)
    objective = build(task)
    weights = {name: value.detach().double() for name, value in objective.named_parameters()}
    speeds = {name: torch.zeros_like(value) for name, value in weights.items()}
    for step in train(objective, task):
        for name, parameter in objective.named_parameters():
            assert parameter.grad is not None
            decay = 0.1 if is_matrix(name, parameter) else 0.0
            speeds[name] = 0.9 * speeds[name] + parameter.grad + decay * weights[name]
            rate = learning_rate(step, task) * scale_of(name, 0.5)
            weights[name] = weights[name] - rate * speeds[name]
    for name, parameter in objective.named_parameters():
        torch.testing.assert_close(
            parameter.detach().double(), weights[name], rtol=1e-5, atol=2e-6, msg=name
        )


def test_adamw_takes_the_steps_of_its_equations() -> None:
    task = change(TASK, optimizer="adamw", weight_decay=0.1, layer_decay=0.5)
    objective = build(task)
    weights = {name: value.detach().double() for name, value in objective.named_parameters()}
    first, second = (
        {name: torch.zeros_like(value) for name, value in weights.items()} for _ in range(2)
    )
    for step in train(objective, task):
        for name, parameter in objective.named_parameters():
            assert parameter.grad is not None
            rate = learning_rate(step, task) * scale_of(name, 0.5)
            decay = 0.1 if is_matrix(name, parameter) else 0.0
            gradient = parameter.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            weights[name] = weights[name] * (1 - rate * decay) - rate * mean / (
                square.sqrt() + 1e-8
            )
    for name, parameter in objective.named_parameters():
        torch.testing.assert_close(
            parameter.detach().double(), weights[name], rtol=1e-5, atol=2e-6, msg=name
        )


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
    objective = build(task, kind)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    for _ in train(objective, task):
        pass
    for name, parameter in objective.named_parameters():
        in_tower = any(f"model.{tower}." in name for tower in ("tower", "video", "audio"))
        is_low = in_tower and (".stem." in name or ".blocks.0." in name)
        frozen = {"none": False, "tower": in_tower, 1: is_low}[freeze]
        assert torch.equal(parameter, before[name]) == frozen, name
