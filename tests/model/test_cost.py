"""Costs equal torch's own counters, sums by hand, and the paper's published numbers."""

from typing import Any

import pytest
import torch

from benchmarks.memory import count_saved
from benchmarks.model.networks import VOCAB_SIZE, draw_batch
from tests.flops import counting
from tests.tiny import TINY_MODEL
from tests.train.corpus import CLIP as SMALL_CLIP
from tests.train.corpus import MODEL as SMALL_MODEL
from tests.train.corpus import SHARED_MODEL
from vatt.core.batch import Batch
from vatt.model.cost import (
    BUCKET_BYTES,
    Cost,
    Weights,
    add_costs,
    count_clip,
    count_weights,
    estimate_activations,
    estimate_state_bytes,
)
from vatt.model.published import (
    PAPER_CLIP,
    PAPER_VOCAB_SIZE,
    build_paper_network,
    compare_flops,
    compare_sizes,
)
from vatt.model.transformer import Encoder
from vatt.model.vatt import Vatt
from vatt.params import ClipParams, ModelParams, TowerSize

CLIP = ClipParams(
    num_frames=4, frame_size_px=24, num_samples=20_480, num_tokens=6, num_candidates=3
)
NUM_CLIPS = 2
SIZE = TowerSize(num_layers=3, width=16, mlp_width=24, num_heads=2, head_width=4)
OTHER = TowerSize(num_layers=2, width=20, mlp_width=28, num_heads=3, head_width=8)
MODEL = TINY_MODEL.model_copy(
    update={
        "video": SIZE,
        "audio": OTHER,
        "text": TowerSize(num_layers=1, width=12, mlp_width=20, num_heads=2, head_width=8),
        "video_patch": (2, 8, 6),
        "audio_patch": 1024,
    }
)
SIZES = {"video": SIZE, "audio": SIZE, "text": SIZE}
SHARED: dict[str, Any] = {"shared_encoder": True, "text_style": "bert", **SIZES}
VARIANTS: dict[str, dict[str, Any]] = {
    "t5": {},
    "frozen words": {"train_word_table": False},
    "bert": {"text_style": "bert"},
    "bert, frozen words": {"text_style": "bert", "train_word_table": False},
    "linear": {"text_style": "linear"},
    "linear, frozen words": {"text_style": "linear", "train_word_table": False},
    "spectrogram": {"audio_input": "spectrogram", "spectrogram_patch": (4, 16)},
    "shared": SHARED,
    "shared, frozen words": {**SHARED, "train_word_table": False},
    "joint": {"space_kind": "joint", "space_vt_width": 24},
    "one space": {"space_kind": "mmv_shared", "space_vt_width": 24},
    "two spaces": {"space_kind": "mmv_disjoint", "batch_norm_everywhere": True},
}


def build_model(params: ModelParams) -> Vatt:
    torch.manual_seed(0)
    return Vatt(params, CLIP, vocab_size=20).train()


def count_step(model: Vatt) -> tuple[int, int]:
    """Return what torch counts in a forward pass and in the backward pass after it."""
    batch = Batch(
        video=torch.randn(NUM_CLIPS, 4, 24, 24, 3).clamp(-1, 1),
        audio=torch.rand(NUM_CLIPS, CLIP.num_samples),
        text=torch.randint(1, 20, (NUM_CLIPS, 3, 6)),
        audio_mask=torch.ones(NUM_CLIPS, dtype=torch.bool),
        text_mask=torch.ones(NUM_CLIPS, 3, dtype=torch.bool),
    )
    with counting() as forward:
        embeddings = model(batch)
    with counting() as backward:
        torch.stack([part.square().sum() for part in vars(embeddings).values()]).sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def count_batch(model: Vatt, rate: float) -> Cost:
    return add_costs(NUM_CLIPS * [add_costs(count_clip(model, CLIP, rate).values())])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_full_count_is_what_torch_counts(variant: str, rate: float) -> None:
    params = MODEL.model_copy(update={"drop_token_rate": rate, **VARIANTS[variant]})
    model = build_model(params)
    cost = count_batch(model, rate)
    forward, backward = count_step(model)
    assert forward == cost.full
    assert forward + backward == cost.training


@pytest.mark.parametrize("variant", ["t5", "shared"])
def test_recomputation_costs_the_blocks_once_more(variant: str) -> None:
    params = MODEL.model_copy(update=VARIANTS[variant])
    model = build_model(params)
    for tower in (model.video, model.audio, model.text):
        tower.encoder.recomputes = True  # type: ignore[union-attr]
    cost = count_batch(model, params.drop_token_rate)
    assert sum(count_step(model)) == cost.training + cost.recomputed


def test_weights_are_counted_once_and_frozen_ones_apart() -> None:
    params = MODEL.model_copy(update={**SHARED, "train_word_table": False})
    model = build_model(params)
    weights = count_weights(model)
    num_frozen = 20 * params.word_width
    num_trainable = sum(weight.numel() for weight in model.parameters()) - num_frozen
    assert add_costs(weights.values()) == (num_trainable, num_frozen)
    block = 4 * (16 * 8) + 3 * 8 + 16 + 2 * 16 * 24 + 24 + 16 + 4 * 16
    assert weights["shared encoder"] == (3 * block + 2 * 16, 0)


def test_state_of_two_ranks_by_zero_stage() -> None:
    """100 trained weights, 10 frozen: 440 bytes of weights, 400 of gradients, 800 of moments."""
    weights = Weights(100, 10)
    assert estimate_state_bytes(weights, 2, 0) == 440 + 400 + 800
    # The weights, and of each rank half of gradients, moments and a second copy of the weights.
    for stage in (1, 2):
        assert estimate_state_bytes(weights, 2, stage) == 440 + 800 + BUCKET_BYTES
    assert estimate_state_bytes(weights, 2, 3) == 440 + 800 + 220 + BUCKET_BYTES


LONG = SMALL_CLIP.model_copy(update={"num_frames": 8, "frame_size_px": 32, "num_samples": 8192})
"""A clip with sequences so long that what the formula leaves out is small."""


@pytest.mark.parametrize("params", [SMALL_MODEL, SHARED_MODEL])
def test_activations_are_what_autograd_keeps(params: ModelParams) -> None:
    """Counted as the difference of some clips, so that what is there once does not count."""
    model = Vatt(params, LONG, VOCAB_SIZE).train()
    formula = estimate_activations(model, LONG, 0.0, "fp32")
    assert count_for_a_clip(model) == pytest.approx(formula.kept, rel=0.1)
    for module in model.modules():
        if isinstance(module, Encoder):
            module.recomputes = True
    assert count_for_a_clip(model) == pytest.approx(formula.between, rel=0.1)


def count_for_a_clip(model: Vatt) -> float:
    few, many = (count_saved(model, draw_batch(LONG, size)) for size in (2, 6))
    return (many - few) / 4


def test_linear_text_leaves_what_enters_its_layer() -> None:
    params = SMALL_MODEL.model_copy(update={"text_style": "linear"})
    more = SMALL_CLIP.model_copy(update={"num_candidates": SMALL_CLIP.num_candidates + 1})
    kept = [
        estimate_activations(Vatt(params, clip, VOCAB_SIZE), clip, 0.0, "fp32").kept
        for clip in (SMALL_CLIP, more)
    ]
    assert kept[1] - kept[0] == SMALL_CLIP.num_tokens * 4 * params.word_width


LAYERS, WIDTH, MLP_WIDTH, HEADS = 12, 1024, 4096, 16


def count_by_formula(num_patches: int, num_kept: int) -> float:
    """GFLOPs of the Medium video tower as TensorFlow's profiler counts them, 600 classes."""
    tokens = num_kept + 1
    dense = LAYERS * tokens * (4 * WIDTH**2 + 2 * WIDTH * MLP_WIDTH)
    values = LAYERS * tokens**2 * WIDTH
    patches = 4 * 16 * 16 * 3 * WIDTH * num_patches
    return (2 * (dense + values + patches + WIDTH * 600) + 6 * LAYERS * HEADS * tokens**2) / 1e9


@pytest.mark.parametrize(
    ("clip", "num_patches", "num_kept"),
    [
        ("32 x 224 x 224, drop 0%", 1568, 1568),
        ("64 x 224 x 224, drop 0%", 3136, 3136),
        ("32 x 320 x 320, drop 0%", 3200, 3200),
        ("32 x 320 x 320, drop 25%", 3200, 2400),
        ("32 x 320 x 320, drop 50%", 3200, 1600),
        ("32 x 320 x 320, drop 75%", 3200, 800),
    ],
)
def test_a_tower_costs_what_the_formula_says(clip: str, num_patches: int, num_kept: int) -> None:
    ours = {row.name: row.ours.paper / 1e9 for row in compare_flops()}[f"Medium video, {clip}"]
    assert ours == pytest.approx(count_by_formula(num_patches, num_kept), rel=1e-12)


def test_all_published_flops_come_out_within_one_percent() -> None:
    rows = list(compare_flops())
    assert [row.paper_gflops for row in rows] == [
        *(548.1, 1222.1, 1252.3, 898.9, 572.5, 279.8),
        *(784.8, 574.2, 375.4, 188.1),
        *(9090.0, 15020.0, 29800.0),
    ]
    for row in rows:
        assert row.ours.paper / 1e9 == pytest.approx(row.paper_gflops, rel=0.01), row.name


def test_published_sizes_of_video_towers_come_out_exactly() -> None:
    rows = {row.name: row for row in compare_sizes()}
    for name, exact, published in [
        ("Base video tower", 87_907_416, 87.9),
        ("Medium video tower", 154_958_424, 155.0),
        ("Large video tower", 306_113_112, 306.1),
    ]:
        assert rows[name].ours == exact
        assert rows[name].paper_millions == published == pytest.approx(exact / 1e6, abs=0.05)
    assert {name: rows[f"{name} network"].ours for name in ("BBS", "MBS", "LBS")} == {
        "BBS": 193_877_292,
        "MBS": 260_905_772,
        "LBS": 412_060_460,
    }


def test_the_papers_network_has_its_word_table_and_clip() -> None:
    network = build_paper_network("base")
    assert network.words.weight.shape == (PAPER_VOCAB_SIZE, 300)
    assert [len(table.table) for table in network.video.stem.positions.tables] == [8, 14, 14]
    assert (PAPER_CLIP.num_samples, PAPER_CLIP.num_candidates) == (153_600, 5)
