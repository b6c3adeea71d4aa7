"""The stem: patches and spectrograms against slow loops, positions against scipy, DropToken."""

import math
from collections.abc import Iterable
from typing import cast

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from tests import reference
from tests.flops import counting
from tests.ranks import Ranks
from vatt.core.distributed import rank, seed_shared
from vatt.model.stem import (
    AudioPatches,
    Draw,
    DropToken,
    LogMel,
    Positions,
    PositionTable,
    SpectrogramPatches,
    VideoPatches,
    count_frames,
    draw_kept,
    spline_matrix,
)
from vatt.model.towers import Tower, TowerParams, build_tower
from vatt.model.transformer import Group
from vatt.params import TowerSize


def test_boxes_hold_their_own_pixels_and_the_rest_is_cut_off() -> None:
    video = torch.randn(2, 5, 7, 13, 3)
    boxes = VideoPatches((2, 3, 4), width=8).cut(video)
    assert boxes.shape == (2, 2, 2, 3, 72)
    for t, h, w in [(0, 0, 0), (1, 0, 2), (0, 1, 1), (1, 1, 2)]:
        pixels = video[:, 2 * t : 2 * t + 2, 3 * h : 3 * h + 3, 4 * w : 4 * w + 4]
        assert torch.equal(boxes[:, t, h, w], pixels.reshape(2, 72))


def test_pieces_of_a_waveform() -> None:
    audio = torch.arange(20.0).view(2, 10)
    pieces = AudioPatches((4,), width=8).cut(audio)
    assert pieces.tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[10, 11, 12, 13], [14, 15, 16, 17]]]


def test_first_weights_are_those_of_a_dense_layer() -> None:
    projection = VideoPatches((4, 8, 8), width=128).projection
    bound = (6 / (4 * 8 * 8 * 3 + 128)) ** 0.5
    assert projection.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert projection.bias.abs().max() == 0


@pytest.mark.parametrize(
    "video",
    [
        torch.zeros(1, 4, 16, 16, 4),
        torch.zeros(4, 16, 16, 3),
        torch.zeros(1, 4, 16, 16, 3, dtype=torch.uint8),
    ],
)
def test_what_is_no_video_is_refused(video: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"video: expected floats of \(clips, frames"):
        VideoPatches((2, 8, 8), 8).cut(video)


@pytest.mark.parametrize(
    "audio", [torch.zeros(2, 512, 1), torch.zeros(512), torch.zeros(2, 512, dtype=torch.int16)]
)
def test_what_is_no_waveform_is_refused(audio: torch.Tensor) -> None:
    for patches in (AudioPatches((64,), 8), SpectrogramPatches((1, 5), 8)):
        with pytest.raises(ValueError, match=r"audio: expected floats of \(clips, samples\)"):
            patches.cut(audio)


def compute_log_mel_slowly(audio: torch.Tensor) -> torch.Tensor:
    """The spectrogram of one waveform, window by window and band by band."""
    samples = torch.cat([audio.double(), torch.zeros(2048)])
    window = torch.tensor([0.5 - 0.5 * math.cos(2 * math.pi * n / 2048) for n in range(2048)])
    edges_mel = torch.linspace(reference.mel(80.0), reference.mel(7600.0), 82, dtype=torch.float64)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    frequencies = torch.arange(1025, dtype=torch.float64) * 48_000 / 2048
    frames = []
    for start in range(0, len(audio), 1024):
        magnitudes = torch.fft.rfft(samples[start : start + 2048] * window).abs()
        row = []
        for low, centre, high in zip(edges_hz, edges_hz[1:], edges_hz[2:], strict=False):
            rising = (frequencies - low) / (centre - low)
            falling = (high - frequencies) / (high - centre)
            row.append((magnitudes * torch.minimum(rising, falling).clamp(min=0)).sum())
        frames.append(torch.log1p(10_000 * torch.stack(row)))
    spectrogram = torch.stack(frames)
    return (spectrogram - spectrogram.min()) / (spectrogram.max() - spectrogram.min())


def test_equals_a_slow_transform() -> None:
    torch.manual_seed(0)
    audio = torch.randn(2, 5000) * 0.1
    spectrograms = LogMel()(audio)
    assert spectrograms.shape == (2, count_frames(5000), 80) == (2, 5, 80)
    for found, waveform in zip(spectrograms, audio, strict=True):
        torch.testing.assert_close(
            found.double(), compute_log_mel_slowly(waveform), rtol=0, atol=1e-4
        )


def test_the_papers_clip() -> None:
    assert LogMel()(torch.rand(1, 153_600)).shape == (1, 150, 80)


@pytest.mark.parametrize("frequency_hz", [200.0, 1000.0, 5000.0])
def test_a_tone_is_loudest_in_its_band(frequency_hz: float) -> None:
    tone = torch.sin(2 * math.pi * frequency_hz * torch.arange(48_000) / 48_000)[None]
    loudest = LogMel()(tone)[0, 10].argmax().item()
    place = (reference.mel(frequency_hz) - reference.mel(80)) / (
        reference.mel(7600) - reference.mel(80)
    )
    assert loudest == pytest.approx(place * 81 - 1, abs=1)


def test_silence_is_zero_and_quiet_sound_is_not() -> None:
    audio = torch.stack([torch.zeros(4096), torch.randn(4096) * 1e-3])
    silent, quiet = LogMel()(audio)
    assert silent.abs().max() == 0
    assert (quiet.min(), quiet.max()) == (0, 1)


def test_tiles_hold_frames_times_bands() -> None:
    patches = SpectrogramPatches((2, 20), 8)
    patches.takes_spectrograms = True
    spectrogram = torch.rand(3, 5, 80)
    tiles = patches.cut(spectrogram)
    assert tiles.shape == (3, 2, 4, 40)
    assert torch.equal(tiles[1, 1, 3].view(2, 20), spectrogram[1, 2:4, 60:])
    with pytest.raises(ValueError, match="less than a patch"):
        patches.cut(spectrogram[:, :1])


def test_positions_may_run_the_other_way() -> None:
    """As the original numbers the places of spectrograms: the first axis fastest."""
    positions = Positions((3, 4), 8, first_axis_fastest=True)
    first, second = (table.table for table in cast("Iterable[PositionTable]", positions.tables))
    expected = torch.stack([first[i] + second[j] for j in range(4) for i in range(3)])
    torch.testing.assert_close(positions((3, 4)), positions.norm(expected))


@pytest.mark.parametrize(
    ("num_knots", "num_queries"),
    [(8, 16), (14, 20), (14, 24), (4, 3), (3, 5), (2, 5), (20, 14), (1200, 1500)],
)
def test_spline_is_natural_and_goes_on_straight(num_knots: int, num_queries: int) -> None:
    values = np.random.default_rng(0).normal(size=(num_knots, 3))
    knots = np.arange(num_knots) / num_knots
    queries = np.arange(num_queries) / num_queries
    spline = CubicSpline(knots, values, bc_type="natural")
    beyond = np.clip(queries - knots[-1], 0, None)[:, None]
    expected = spline(np.minimum(queries, knots[-1])) + beyond * spline(knots[-1], nu=1)
    assert spline_matrix(num_knots, num_queries).numpy() @ values == pytest.approx(
        expected, abs=1e-9
    )


def test_one_place_serves_any_number() -> None:
    table = PositionTable(1, 4)
    assert torch.equal(table(5), table.table.expand(5, 4))


def test_first_place_of_a_shorter_axis_is_the_first_of_the_table() -> None:
    """An image is one temporal patch: its position is row 0 exactly (fine-tuning on images)."""
    table = PositionTable(8, 4)
    torch.testing.assert_close(table(1), table.table[:1], rtol=0, atol=1e-6)


def test_places_are_sums_of_their_axes_then_normalised() -> None:
    positions = Positions((2, 3, 4), width=8)
    tables = [positions.get_parameter(f"tables.{axis}.table") for axis in range(3)]
    result = positions((2, 3, 4)).view(2, 3, 4, 8)
    for t, h, w in [(0, 0, 0), (1, 2, 3), (0, 2, 1)]:
        place = tables[0][t] + tables[1][h] + tables[2][w]
        expected = (place - place.mean()) / (place.var(unbiased=False) + 1e-6).sqrt()
        torch.testing.assert_close(result[t, h, w], expected, rtol=1e-4, atol=1e-5)


def test_stretched_tables_still_learn() -> None:
    positions = Positions((2, 3), width=8)
    weights = torch.randn(20, 8)
    (positions((4, 5)) * weights).sum().backward()
    for parameter in positions.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().min() > 0


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


def drop_twice(draw: Draw, num_clips: int) -> Tensor:
    """Return the places that the clips of this rank keep in two draws."""
    torch.manual_seed(5 + rank())  # as dropout draws, each rank its own
    seed_shared(5, CPU)
    drop, places = DropToken(0.5, draw).train(), torch.arange(NUM_PATCHES, dtype=torch.float32)
    patches = places[:, None].expand(num_clips, -1, 1)
    return torch.stack([drop(patches, places[:, None])[0] for _ in range(2)], 1)


@pytest.mark.parametrize("draw", ["batch", "clip"])
def test_a_clip_keeps_the_same_on_any_number_of_ranks(two_ranks: Ranks, draw: Draw) -> None:
    alone, shares = drop_twice(draw, 8), two_ranks.run(drop_twice, draw, 4)
    assert torch.equal(torch.cat(shares), alone)
    assert torch.equal(*shares) == (draw == "batch")


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
