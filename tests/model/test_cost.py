"""Accounting equals torch's own counter to the last FLOP, and the paper's published numbers."""

from typing import Any

import pytest
import torch

from tests.flops import counting
from tests.tiny import TINY_MODEL
from vatt.core.batch import Batch
from vatt.model.cost import Cost, add_costs, count_clip, count_weights
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
