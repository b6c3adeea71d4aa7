"""What a rank holds, by formula, against sums by hand and against what autograd keeps."""

import pytest

from benchmarks.memory import count_saved
from benchmarks.model.networks import VOCAB_SIZE, draw_batch
from tests.train.corpus import CLIP, MODEL, SHARED_MODEL
from vatt.model.cost import BUCKET_BYTES, Weights, estimate_activations, estimate_state_bytes
from vatt.model.transformer import Encoder
from vatt.model.vatt import Vatt
from vatt.params import ModelParams


def test_state_of_two_ranks_by_zero_stage() -> None:
    """100 trained weights, 10 frozen: 440 bytes of weights, 400 of gradients, 800 of moments."""
    weights = Weights(100, 10)
    assert estimate_state_bytes(weights, 2, 0) == 440 + 400 + 800
    # The weights, and of each rank half of gradients, moments and a second copy of the weights.
    for stage in (1, 2):
        assert estimate_state_bytes(weights, 2, stage) == 440 + 800 + BUCKET_BYTES
    assert estimate_state_bytes(weights, 2, 3) == 440 + 800 + 220 + BUCKET_BYTES


LONG = CLIP.model_copy(update={"num_frames": 8, "frame_size_px": 32, "num_samples": 8192})
"""A clip with sequences so long that what the formula leaves out is small."""


@pytest.mark.parametrize("params", [MODEL, SHARED_MODEL])
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
    params = MODEL.model_copy(update={"text_style": "linear"})
    more = CLIP.model_copy(update={"num_candidates": CLIP.num_candidates + 1})
    kept = [
        estimate_activations(Vatt(params, clip, VOCAB_SIZE), clip, 0.0, "fp32").kept
        for clip in (CLIP, more)
    ]
    assert kept[1] - kept[0] == CLIP.num_tokens * 4 * params.word_width
