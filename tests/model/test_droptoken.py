"""DropToken: how many, which, for whom, and what the dropped ones cost."""

import pytest
import torch

from tests.flops import counting
from vatt.model.stem import Draw, DropToken, draw_kept
from vatt.model.towers import Tower, TowerParams, build_tower
from vatt.model.transformer import Group
from vatt.params import TowerSize

CPU = torch.device("cpu")
SIZE = TowerSize(num_layers=3, width=16, mlp_width=32, num_heads=2, head_width=8)
NUM_PATCHES, PATCH = 40, 10


def build(drop_token_rate: float) -> Tower:
    torch.manual_seed(0)
    params = TowerParams(
        input="waveform",
        size=SIZE,
        patch=(PATCH,),
        grid=(NUM_PATCHES,),
        post_projection_width=None,
        dropout_rate=0.0,
        drop_token_rate=drop_token_rate,
    )
    return build_tower(params, pretrains="clip")


@pytest.mark.parametrize(
    ("num_tokens", "rate", "num_kept"),
    [(1568, 0.5, 784), (1568, 0.75, 392), (1200, 0.25, 900), (10, 0.9, 1), (3, 0.99, 1)],
)
def test_number_kept(num_tokens: int, rate: float, num_kept: int) -> None:
    kept = draw_kept(2, num_tokens, rate, CPU)
    assert kept.shape == (2, num_kept)
    assert all(len(set(row)) == num_kept for row in kept.tolist())


def test_every_place_is_kept_equally_often_and_clips_draw_apart() -> None:
    torch.manual_seed(1)
    num_clips, num_tokens, share = 4000, 20, 0.25
    kept = draw_kept(num_clips, num_tokens, 1 - share, CPU)
    counts = torch.bincount(kept.flatten(), minlength=num_tokens)
    deviation = (num_clips * share * (1 - share)) ** 0.5
    assert (counts - num_clips * share).abs().max() < 4.5 * deviation
    assert len({frozenset(row) for row in kept[:100].tolist()}) > 95


def test_training_encodes_exactly_the_kept_patches_with_their_own_positions() -> None:
    """All that a dropped patch holds is without effect; a kept one has its full one."""
    tower, audio = build(0.5).train(), torch.randn(2, NUM_PATCHES * PATCH)
    torch.manual_seed(5)
    kept = draw_kept(2, NUM_PATCHES, 0.5, CPU)
    torch.manual_seed(5)
    encoded = tower(audio)
    is_kept = torch.zeros(2, NUM_PATCHES, dtype=torch.bool).scatter(1, kept, value=True)
    noise = torch.randn_like(audio).view(2, NUM_PATCHES, PATCH)
    torch.manual_seed(5)
    dropped_changed = tower(audio + (noise * ~is_kept[..., None]).flatten(1))
    assert torch.equal(dropped_changed, encoded)

    stem = tower.stem
    tokens = stem.patches(stem.patches.cut(audio)) + stem.positions((NUM_PATCHES,))
    tokens = stem.agg_token(torch.stack([tokens[clip, is_kept[clip]] for clip in range(2)]))
    torch.testing.assert_close(encoded, tower.encoder([Group(tokens)])[0])


@pytest.mark.parametrize(("draw", "num_draws"), [("batch", 1), ("clip", 5)])
def test_a_batch_may_keep_the_same_places_as_released(draw: Draw, num_draws: int) -> None:
    """What is kept is a clip's own, with its own position."""
    torch.manual_seed(2)
    places = torch.arange(NUM_PATCHES, dtype=torch.float32)
    patches = (100 * torch.arange(5)[:, None] + places)[..., None].expand(-1, -1, 3)
    drop = DropToken(0.5, draw).train()
    kept, positions = drop(patches, places[:, None].expand(-1, 2))
    assert kept.shape == (5, NUM_PATCHES // 2, 3)
    assert positions.shape == (num_draws, NUM_PATCHES // 2, 2)
    assert torch.equal(kept, 100 * torch.arange(5)[:, None, None] + positions[..., [0, 0, 0]])
    assert len({tuple(row) for row in positions[..., 0].tolist()}) == num_draws
    assert not torch.equal(drop(patches, places[:, None].expand(-1, 2))[0], kept)


@pytest.mark.parametrize("rate", [1.0, 1.5, -0.1, float("nan")])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= rate < 1"):
        DropToken(rate, "clip")


def test_evaluation_drops_nothing() -> None:
    dropping, whole = build(0.5).eval(), build(0.0).eval()
    audio = torch.randn(2, NUM_PATCHES * PATCH)
    assert torch.equal(dropping(audio, all_tokens=True), whole(audio, all_tokens=True))


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.75])
def test_dropped_tokens_cost_nothing(rate: float) -> None:
    tower, audio = build(rate).train(), torch.randn(3, NUM_PATCHES * PATCH)
    with counting() as counter:
        tower(audio, all_tokens=True)
    num_kept = round(NUM_PATCHES * (1 - rate))
    tokens = num_kept + 1
    layer = tokens * (4 * 16 * 16 + 2 * 16 * 32) + 2 * tokens * tokens * 16
    assert counter.get_total_flops() == 2 * 3 * (num_kept * PATCH * 16 + SIZE.num_layers * layer)
