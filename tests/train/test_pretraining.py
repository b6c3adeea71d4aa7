"""Pre-training: its schedule, Adam, the health of embeddings, and the memory that is free."""

import math
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.model.original import Original
from tests.train.corpus import PRETRAIN, build_engine, make_batch
from vatt.params import PretrainParams
from vatt.train import pretraining
from vatt.train.pretraining import (
    adam_settings,
    build_optimizer,
    find_collapse,
    learning_rate,
    measure_health,
    measure_pairs,
)

PAPER = PRETRAIN.model_copy(
    update={"num_steps": 500_000, "warmup_steps": 10_000, "learning_rate": 1e-4}
)
RELEASED = PAPER.model_copy(update={"schedule": "released", "warmup_steps": 5_000})


@pytest.mark.parametrize(
    ("pretrain", "step", "expected"),
    [
        (PAPER, 1, 1e-8),
        (PAPER, 5_000, 0.5e-4),
        (PAPER, 10_000, 1e-4),
        (PAPER, 255_000, 1e-4 * (1 + math.sqrt(0.5)) / 2),  # cos(pi/4)
        (PAPER, 500_000, 0.5e-4),
        (RELEASED, 1, 2e-8),
        (RELEASED, 2_500, 0.5e-4),
        (RELEASED, 5_000, 1e-4),
        (RELEASED, 128_750, 0.5e-4 + 0.5e-4 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the way
        (RELEASED, 252_500, 0.75e-4),  # half way: cos(pi/2)
        (RELEASED, 376_250, 0.5e-4 + 0.5e-4 * (1 - math.sqrt(0.5)) / 2),
        (RELEASED, 500_000, 0.5e-4),
    ],
)
def test_schedules_of_the_paper_and_as_released(
    pretrain: PretrainParams, step: int, expected: float
) -> None:
    assert learning_rate(step, pretrain) == pytest.approx(expected, rel=1e-12)


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
    """PyTorch's place of epsilon would put some weights off by 0.7 of the step."""
    original = Original(name)
    gradients, after = original.group("g::"), original.group("adam_after::")
    weights = {key: nn.Parameter(original.tensor(f"w::{key}")) for key in gradients}
    pretrain = PAPER.model_copy(update={"warmup_steps": 1, "adam_epsilon": 1e-7})
    optimizer = build_optimizer(weights.values(), pretrain)
    optimizer.param_groups[0].update(adam_settings(1, pretrain))
    for key, weight in weights.items():
        weight.grad = torch.from_numpy(gradients[key])
    optimizer.step()
    found = {key: weight.detach() for key, weight in weights.items()}
    expected = {key: torch.from_numpy(weight) for key, weight in after.items()}
    torch.testing.assert_close(found, expected, rtol=2e-7, atol=1e-8)


def draw(num_clips: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(num_clips, width, generator=generator))


def test_pairs_against_slow_loops() -> None:
    video, other = draw(12, 5), draw(12, 5, seed=1)
    health = measure_pairs(video, other)
    squares = [math.dist(v, o) ** 2 for v, o in zip(video.tolist(), other.tolist(), strict=True)]
    assert health["alignment"] == pytest.approx(sum(squares) / 12, rel=1e-5)
    logs = []
    for rows in (video.tolist(), other.tolist()):
        kernels = [math.exp(-2 * math.dist(a, b) ** 2) for a, b in combinations(rows, 2)]
        logs.append(math.log(sum(kernels) / len(kernels)))
    assert health["uniformity"] == pytest.approx(sum(logs) / 2, rel=1e-5)
    places = []
    for number, query in enumerate(other):
        scores = [float(query @ item) for item in video]
        places.append(sum(score > scores[number] for score in scores))
    assert health["r1"] == pytest.approx(sum(place == 0 for place in places) / 12)
    assert health["rank"] == pytest.approx(sum(places) / 12 / 11)


def test_perfect_pairs() -> None:
    corners = torch.eye(8)
    health = measure_pairs(corners, corners)
    assert health["alignment"] == 0
    assert (health["r1"], health["rank"]) == (1, 0)
    assert health["uniformity"] == pytest.approx(-4)  # all at distance sqrt 2
    assert health["directions"] == pytest.approx(7)  # 8 corners of a simplex
    assert find_collapse({f"{k}_va": v for k, v in health.items()}, is_warm=True) == []


@pytest.mark.parametrize("num_directions", [0, 1])
def test_collapse_is_said(num_directions: int) -> None:
    line = draw(32, 1) * 0.1 * num_directions
    rows = functional.normalize(torch.cat([torch.ones(32, 1), line, torch.zeros(32, 6)], dim=1))
    health = {f"{k}_vt": v for k, v in measure_pairs(rows, draw(32, 8)).items()}
    (collapsed,) = find_collapse(health, is_warm=False)
    assert "video and text have collapsed" in collapsed
    assert len(find_collapse(health, is_warm=True)) == 2


def test_indifferent_embeddings_are_at_chance() -> None:
    one_point = torch.ones(20, 4) / 2
    assert measure_pairs(one_point, one_point)["rank"] == pytest.approx(0.5)
    unrelated = measure_pairs(draw(200, 16), draw(200, 16, seed=1))
    health = {f"{name}_va": value for name, value in unrelated.items()}
    assert find_collapse(health, is_warm=False) == []
    (problem,) = find_collapse(health, is_warm=True)
    assert "video and audio is at chance" in problem
    assert unrelated["alignment"] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_measuring_changes_nothing(zero_stage: int) -> None:
    """Between two steps, under ZeRO-3 too; clips without sound or text are left out."""
    measured, left_alone = build_engine(zero_stage=zero_stage), build_engine(zero_stage=zero_stage)
    for engine in (measured, left_alone):
        for step in (1, 2):
            losses = engine.compute_losses(make_batch(step))
            engine.update(losses[0], [adam_settings(step, PRETRAIN)])
            if engine is measured:
                health = measure_health(engine, [make_batch(11), make_batch(12)])
    batches = [make_batch(11), make_batch(12)]
    assert health["pairs_va"] == sum(float(batch.audio_mask.sum()) for batch in batches)
    assert health["pairs_vt"] == sum(float(batch.text_mask[:, 0].sum()) for batch in batches)
    states = measured.gather_state(), left_alone.gather_state()
    torch.testing.assert_close(*states, rtol=0, atol=0)


MIB = 2**20


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(str(64 * MIB), 64 * MIB - 40 * MIB + 8 * MIB), ("max", 2**40), (None, 2**40)],
)
def test_what_is_used_in_a_container_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int
) -> None:
    """Of 40 MiB in use, 8 are pages of files that can be dropped; the machine has a TiB."""
    if limit is not None:  # None: no container
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{40 * MIB}\n")
        (tmp_path / "memory.stat").write_text(f"anon {32 * MIB}\ninactive_file {8 * MIB}\n")
    monkeypatch.setattr(pretraining, "CONTAINER", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**40))
    assert pretraining._find_free_bytes() == expected
