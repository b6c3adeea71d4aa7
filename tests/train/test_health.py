"""Health of embeddings against closed forms and slow loops; what is called a collapse."""

import math
from itertools import combinations

import pytest
import torch
from torch.nn import functional

from tests.train.corpus import PRETRAIN, build_engine, make_batch
from vatt.train.monitor import Pairs, find_collapse, measure_health, measure_pairs
from vatt.train.pretraining import adam_settings


def draw(num_clips: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(num_clips, width, generator=generator))


def test_pairs_against_slow_loops() -> None:
    video, other = draw(12, 5), draw(12, 5, seed=1)
    health = measure_pairs(Pairs(video, other))
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
    health = measure_pairs(Pairs(corners, corners))
    assert health["alignment"] == 0
    assert (health["r1"], health["rank"]) == (1, 0)
    assert health["uniformity"] == pytest.approx(-4)  # all at distance sqrt 2
    assert health["directions"] == pytest.approx(7)  # 8 corners of a simplex
    assert find_collapse({f"{k}_va": v for k, v in health.items()}, is_warm=True) == []


@pytest.mark.parametrize("num_directions", [0, 1])
def test_collapse_is_said(num_directions: int) -> None:
    line = draw(32, 1) * 0.1 * num_directions
    rows = functional.normalize(torch.cat([torch.ones(32, 1), line, torch.zeros(32, 6)], dim=1))
    health = {f"{k}_vt": v for k, v in measure_pairs(Pairs(rows, draw(32, 8))).items()}
    (collapsed,) = find_collapse(health, is_warm=False)
    assert "video and text have collapsed" in collapsed
    assert len(find_collapse(health, is_warm=True)) == 2


def test_indifferent_embeddings_are_at_chance() -> None:
    one_point = torch.ones(20, 4) / 2
    assert measure_pairs(Pairs(one_point, one_point))["rank"] == pytest.approx(0.5)
    unrelated = measure_pairs(Pairs(draw(200, 16), draw(200, 16, seed=1)))
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
    expected = left_alone.gather_state()
    for name, tensor in measured.gather_state().items():
        assert torch.equal(tensor, expected[name]), name
