"""The layers against their equations in float64, dropout against its distribution."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from vatt.model.transformer import Dense, Dropout, attend, drop_out

RATE = 0.1
NUM_VALUES = 400_000
DEVIATION = (NUM_VALUES * RATE * (1 - RATE)) ** 0.5


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
    dropped = drop_out(values, RATE)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - RATE)], rel=2**-8)
    is_kept = dropped.detach() > 0
    assert abs((~is_kept).sum().item() - NUM_VALUES * RATE) < 4.5 * DEVIATION
    (gradient,) = torch.autograd.grad(dropped.sum(), values)
    assert torch.equal(gradient, dropped.detach())


def test_dropout_draws_each_value_by_itself() -> None:
    """No place within the words of random bits, and no pair of neighbours, is preferred."""
    torch.manual_seed(4)
    is_dropped, again = ((drop_out(torch.ones(NUM_VALUES), RATE) == 0).double() for _ in range(2))
    by_place = is_dropped.view(-1, 4).sum(0)
    assert (by_place - NUM_VALUES * RATE / 4).abs().max() < 4.5 * DEVIATION / 2
    neighbours = [is_dropped[distance:] * is_dropped[:-distance] for distance in range(1, 9)]
    for pairs in (*neighbours, is_dropped * again):
        surplus = pairs.sum().item() - NUM_VALUES * RATE**2
        assert abs(surplus) < 4.5 * NUM_VALUES**0.5 * RATE


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
