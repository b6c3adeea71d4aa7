"""Dropout at every place of the original: one part trains, the rest is in evaluation mode.

What comes out is 0 or, scaled up, what evaluation gives.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.model.original import AGNOSTIC, CLIP, MODEL
from vatt.model.stem import AudioPatches, DropToken, Positions, Stem
from vatt.model.text import BertStem, RelativeBias, T5Stem, Words
from vatt.model.transformer import (
    STANDARD,
    Attention,
    Block,
    Dense,
    Dropout,
    Encoder,
    Group,
    Layout,
)
from vatt.model.vatt import Vatt
from vatt.params import ModelParams, TowerSize

RATE = 0.25
WIDTH = 8
NUM_TOKENS = 8
NUM_CLIPS = 64
SIZE = TowerSize(num_layers=2, width=WIDTH, mlp_width=WIDTH, num_heads=1, head_width=WIDTH)
LAYOUT = Layout(((NUM_CLIPS, NUM_TOKENS),), (None,))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_dropped(part: nn.Module, compute: Callable[[], Tensor]) -> None:
    """Compare what `compute` returns while `part` trains with what it returns in evaluation."""
    with torch.no_grad():
        whole = compute()
        part.train()
        found = compute()
    kept = found != 0
    torch.testing.assert_close(found[kept], whole[kept] / (1 - RATE))
    deviation = math.sqrt(RATE * (1 - RATE) / found.numel())
    assert kept.double().mean().item() == pytest.approx(1 - RATE, abs=5 * deviation)


def replace_weight(layer: nn.Module, fill: Callable[[Tensor], object]) -> None:
    assert isinstance(layer, Dense)
    fill(layer.weight)


def build_stem(kind: str) -> tuple[nn.Module, Tensor]:
    """Return a stem and what it takes."""
    words, positions = Words(50, 6), Positions((NUM_TOKENS,), WIDTH)
    ids = torch.randint(1, 50, (NUM_CLIPS, NUM_TOKENS))
    if kind == "t5":
        return T5Stem(words, WIDTH, RelativeBias(8, 6, 1), RATE), ids
    if kind == "bert":
        return BertStem(words, positions, Dense(6, WIDTH), RATE), ids
    stem = Stem(AudioPatches((5,), WIDTH), positions, DropToken(0.0, "clip"), RATE)
    return stem, torch.randn(NUM_CLIPS, 5 * NUM_TOKENS)


@pytest.mark.parametrize("kind", ["audio", "bert", "t5"])
def test_embedding_but_not_agg_unless_it_is_a_word(kind: str) -> None:
    stem, signal = build_stem(kind)
    first = 0 if kind == "t5" else 1
    assert_dropped(stem.eval(), lambda: stem(signal).tokens[:, first:])
    if kind != "t5":
        agg_token = stem.get_parameter("agg_token.vector")
        assert torch.equal(stem(signal).tokens[:, 0], agg_token.expand(NUM_CLIPS, -1))


@pytest.mark.parametrize("all_tokens", [False, True])
def test_behind_the_last_norm(*, all_tokens: bool) -> None:
    encoder = Encoder(SIZE, RATE).eval()
    groups = [Group(torch.randn(NUM_CLIPS, NUM_TOKENS, WIDTH))]
    assert_dropped(encoder.dropout, lambda: encoder(groups, all_tokens=all_tokens)[0])


@pytest.mark.parametrize("place", ["attention", "mlp", "within the mlp"])
def test_what_a_block_adds(place: str) -> None:
    """Attention or the MLP adds 0; within the MLP, its last layer lets everything through."""
    block = Block(SIZE, RATE, STANDARD).double().eval()
    tokens = torch.randn(NUM_CLIPS * NUM_TOKENS, WIDTH, dtype=torch.float64)
    silent = block.mlp[-1] if place == "attention" else block.attention.output
    replace_weight(silent, nn.init.zeros_)
    if place == "within the mlp":
        replace_weight(block.mlp[-1], nn.init.eye_)
    part = block.mlp if place == "within the mlp" else block.dropout
    assert_dropped(part, lambda: block(tokens, LAYOUT) - tokens)


@pytest.mark.parametrize("agg_only", [False, True])
def test_weights_of_attention(*, agg_only: bool) -> None:
    """The values are one-hot vectors, so that what comes out are the weights themselves."""
    attention = Attention(SIZE, RATE, STANDARD).eval()
    _, value = attention.key_value.weight.chunk(2)
    nn.init.eye_(value)
    replace_weight(attention.output, nn.init.eye_)
    tokens = torch.eye(NUM_TOKENS).repeat(NUM_CLIPS, 1)
    assert_dropped(attention, lambda: attention(tokens, LAYOUT, agg_only=agg_only))


@pytest.mark.parametrize(
    "params", [MODEL, MODEL.model_copy(update={"text_style": "bert"}), AGNOSTIC]
)
def test_the_rate_reaches_every_part(params: ModelParams) -> None:
    model = Vatt(params.model_copy(update={"dropout_rate": RATE}), CLIP, vocab_size=50)
    rates = {part.p for part in model.modules() if isinstance(part, Dropout)}
    rates |= {part.dropout_rate for part in model.modules() if isinstance(part, Attention)}
    assert rates == {RATE}
