"""The encoder against slow loops, and its shortcut against the whole computation."""

import math

import pytest
import torch

from tests import reference
from vatt.model.stem import AggToken
from vatt.model.text import RelativeBias
from vatt.model.transformer import STANDARD, T5, Attention, Encoder, Group, Layout, Style
from vatt.params import TowerSize

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


def test_dropout_acts_in_training_only() -> None:
    encoder, tokens = Encoder(SIZE, 0.3), [Group(torch.randn(2, 5, 12))]
    assert not torch.equal(encoder(tokens)[0], encoder(tokens)[0])
    encoder.eval()
    assert torch.equal(encoder(tokens)[0], encoder(tokens)[0])


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
