"""Layers and the encoder against slow loops and equations, dropout against its distribution."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from tests import reference
from tests.model.original import AGNOSTIC, CLIP, MODEL
from vatt.model.stem import AggToken, AudioPatches, DropToken, Positions, Stem
from vatt.model.text import BertStem, RelativeBias, T5Stem, Words
from vatt.model.transformer import (
    STANDARD,
    T5,
    Attention,
    Block,
    Dense,
    Dropout,
    Encoder,
    Group,
    Layout,
    Style,
    attend,
    drop_out,
)
from vatt.model.vatt import Vatt
from vatt.params import ModelParams, TowerSize

SMALL_RATE = 0.1
NUM_VALUES = 400_000
DEVIATION = (NUM_VALUES * SMALL_RATE * (1 - SMALL_RATE)) ** 0.5


@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (2, 3, 4, 12), (12,), (0, 12)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_dense_is_its_equation_with_its_gradients(shape: tuple[int, ...], has_bias: bool) -> None:
    layer, values = Dense(12, 20, bias=has_bias), torch.randn(shape, requires_grad=True)
    nn.init.normal_(layer.weight)
    upstream = torch.randn(*shape[:-1], 20)
    sources = [values, *layer.parameters()]
    exact = [source.detach().double().requires_grad_() for source in sources]
    expected = functional.linear(exact[0], *exact[1:])
    product = layer(values)
    gradients = torch.autograd.grad(product, sources, upstream)
    slow = torch.autograd.grad(expected, exact, upstream.double())
    assert_close((product, *gradients), (expected, *slow), rtol=1e-5, atol=1e-5, check_dtype=False)


def test_dense_takes_views_and_leaves_out_gradients_that_nobody_needs() -> None:
    layer = Dense(6, 4).requires_grad_(requires_grad=False)
    values = torch.randn(6, 10, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(values.t()).sum(), values)
    assert_close(gradient, layer.weight.sum(0)[:, None].expand(6, 10), rtol=1e-5, atol=1e-5)
    layer.requires_grad_()
    layer(values.detach().t()).sum().backward()
    assert_close(layer.weight.grad, values.detach().sum(1).expand(4, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_share_and_keeps_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    values = torch.ones(NUM_VALUES, dtype=dtype, requires_grad=True)
    dropped = drop_out(values, SMALL_RATE)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - SMALL_RATE)], rel=2**-8)
    is_kept = dropped.detach() > 0
    assert abs((~is_kept).sum().item() - NUM_VALUES * SMALL_RATE) < 4.5 * DEVIATION
    (gradient,) = torch.autograd.grad(dropped.sum(), values)
    assert torch.equal(gradient, dropped.detach())


def test_dropout_draws_each_value_by_itself() -> None:
    """No place within the words of random bits, and no pair of neighbours, is preferred."""
    torch.manual_seed(4)
    is_dropped, again = (
        (drop_out(torch.ones(NUM_VALUES), SMALL_RATE) == 0).double() for _ in range(2)
    )
    by_place = is_dropped.view(-1, 4).sum(0)
    assert (by_place - NUM_VALUES * SMALL_RATE / 4).abs().max() < 4.5 * DEVIATION / 2
    neighbours = [is_dropped[distance:] * is_dropped[:-distance] for distance in range(1, 9)]
    for pairs in (*neighbours, is_dropped * again):
        surplus = pairs.sum().item() - NUM_VALUES * SMALL_RATE**2
        assert abs(surplus) < 4.5 * NUM_VALUES**0.5 * SMALL_RATE


def test_dropout_follows_the_seed_and_rests_in_evaluation() -> None:
    def draw(layer: Dropout) -> Tensor:
        torch.manual_seed(5)
        dropped: Tensor = layer(values)
        return dropped

    values, layer = torch.randn(3, 5, 7), Dropout(0.5)
    assert torch.equal(draw(layer), draw(layer))
    assert not torch.equal(draw(layer), values)
    assert torch.equal(draw(layer.eval()), values)
    assert torch.equal(drop_out(values, 0.0), values)
    assert not drop_out(values, 1.0).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_attention_is_its_equation_with_its_gradients(dtype: torch.dtype, tolerance: float) -> None:
    sources = [torch.randn(2, 3, 5, 8, requires_grad=True) for _ in range(3)]
    bias, upstream = torch.randn(1, 3, 5, 5), torch.randn(2, 3, 5, 8)
    query, key, value = (source.to(dtype) for source in sources)
    attended = attend(query, key, value, bias, scale=0.5, dropout_rate=0.0).float()
    scores = torch.einsum("bnqh,bnkh->bnqk", sources[0], sources[1]) * 0.5 + bias
    weights = scores.exp() / scores.exp().sum(-1, True)
    expected = torch.einsum("bnqk,bnkh->bnqh", weights, sources[2])
    assert_close(attended, expected, rtol=tolerance, atol=tolerance)
    gradients, slow = (
        torch.autograd.grad(output, sources, upstream) for output in (attended, expected)
    )
    assert_close(gradients, slow, rtol=2 * tolerance, atol=2 * tolerance)


def test_attention_weights_drop_out_and_keep_their_mean() -> None:
    """With values of all ones the output is the sum of the weights that are left."""
    torch.manual_seed(6)
    query = torch.zeros(1000, 2, 5, 4)
    attended = attend(query, query, torch.ones_like(query), None, scale=1.0, dropout_rate=0.25)
    assert attended.std() > 0.1
    assert attended.mean().item() == pytest.approx(1, abs=4.5 * (1 / 3 / 5 / 10_000) ** 0.5)


SIZE = TowerSize(num_layers=2, width=12, mlp_width=24, num_heads=3, head_width=8)


@pytest.mark.parametrize(("style", "scale"), [(STANDARD, 8**-0.5), (T5, 1.0)])
def test_attention_equals_slow_loops(style: Style, scale: float) -> None:
    attention = Attention(SIZE, 0.0, style).requires_grad_(requires_grad=False)
    tokens, bias = torch.randn(2, 5, 12), torch.randn(2, 3, 5, 5)
    query = attention.query(tokens).view(2, 5, 3, 8)
    parts = query, *attention.key_value(tokens).view(2, 5, 2, 3, 8).unbind(2)
    expected = torch.empty(2, 5, 3, 8)
    for clip in range(2):
        for head in range(3):
            query, key, value = (part[clip, :, head] for part in parts)
            mean = reference.attention(query, key, value, bias[clip, head], scale)
            expected[clip, :, head] = mean
    expected = attention.output(expected.flatten(2))
    layout = Layout(((2, 5),), (bias,))
    attended = attention(tokens.flatten(0, 1), layout, agg_only=False).view(2, 5, 12)
    torch.testing.assert_close(attended, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("style", [STANDARD, T5])
def test_the_first_token_alone_is_the_same_with_the_same_gradients(style: Style) -> None:
    encoder = Encoder(SIZE, 0.0, style)
    tokens, bias = torch.randn(2, 5, 12, requires_grad=True), torch.randn(2, 3, 5, 5)
    weights = torch.randn(2, 12)
    groups = [Group(tokens, bias)]
    (alone,), (whole,) = encoder(groups), encoder(groups, all_tokens=True)
    assert whole.shape == (2, 5, 12)
    torch.testing.assert_close(alone, whole[:, :1])
    sources = [tokens, *encoder.parameters()]
    short, full = (
        torch.autograd.grad((output[:, 0] * weights).sum(), sources) for output in (alone, whole)
    )
    torch.testing.assert_close(short, full, rtol=1e-4, atol=1e-5)


def test_initial_weights() -> None:
    size = TowerSize(num_layers=1, width=200, mlp_width=400, num_heads=5, head_width=40)
    attention = Attention(size, 0.0, STANDARD)
    for layer in (attention.query, attention.key_value, attention.output):
        assert layer.bias.abs().max() == 0
    for weight in (attention.query.weight, *attention.key_value.weight.chunk(2)):
        bound = (6 / 400) ** 0.5
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_initial_agg_token() -> None:
    """Keras' Glorot-normal: cut off at two deviations, a normal distribution keeps 0.88 of one."""
    torch.manual_seed(0)
    width = 40_000
    vector = AggToken(width).vector.detach() * width**0.5
    limit = 2 / 0.87962566
    assert 0.99 * limit < vector.abs().max() <= limit * (1 + 1e-6)
    assert vector.mean().item() == pytest.approx(0, abs=0.025)
    assert vector.std().item() == pytest.approx(1, rel=0.02)
    # Of a uniform distribution with this deviation, 0.58 would lie within one.
    within = (vector.abs() < limit / 2).double().mean().item()
    assert within == pytest.approx(math.erf(0.5**0.5) / math.erf(2**0.5), abs=0.012)


def test_initial_relative_bias() -> None:
    torch.manual_seed(0)
    table = RelativeBias(num_buckets=200, max_distance=400, num_heads=100).table.weight.detach()
    assert table.abs().max() <= 0.05
    for low in torch.arange(-0.05, 0.045, 0.01):
        share = ((table >= low) & (table < low + 0.01)).double().mean().item()
        assert share == pytest.approx(0.1, abs=0.011)


RATE = 0.25
WIDTH = 8
NUM_TOKENS = 8
NUM_CLIPS = 64
NARROW = TowerSize(num_layers=2, width=WIDTH, mlp_width=WIDTH, num_heads=1, head_width=WIDTH)
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
    encoder = Encoder(NARROW, RATE).eval()
    groups = [Group(torch.randn(NUM_CLIPS, NUM_TOKENS, WIDTH))]
    assert_dropped(encoder.dropout, lambda: encoder(groups, all_tokens=all_tokens)[0])


@pytest.mark.parametrize("place", ["attention", "mlp", "within the mlp"])
def test_what_a_block_adds(place: str) -> None:
    """Attention or the MLP adds 0; within the MLP, its last layer lets everything through."""
    block = Block(NARROW, RATE, STANDARD).double().eval()
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
    attention = Attention(NARROW, RATE, STANDARD).eval()
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
