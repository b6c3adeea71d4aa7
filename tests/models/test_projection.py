"""BatchNorm against torch's, its variance against the closed form, and under bf16."""

import pytest
import torch
from torch import nn

from vatt.models.projection import BatchNorm


def build_pair(width: int) -> tuple[BatchNorm, nn.BatchNorm1d]:
    ours, torchs = BatchNorm(width), nn.BatchNorm1d(width, eps=1e-5, momentum=0.1)
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), torchs.parameters(), strict=True):
            other.copy_(mine.normal_())
    return ours, torchs


def test_equals_torch_in_training_but_for_the_biased_variance() -> None:
    ours, torchs = build_pair(5)
    inputs = (torch.randn(6, 5) * 3 + 100).requires_grad_()
    weights = torch.randn(6, 5)
    torch.testing.assert_close(ours(inputs), torchs(inputs), rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad((ours(inputs) * weights).sum(), [inputs, *ours.parameters()])
    others = torch.autograd.grad((torchs(inputs) * weights).sum(), [inputs, *torchs.parameters()])
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-4)

    torch.testing.assert_close(ours.running_mean, torchs.running_mean)
    # Two calls: 0.81 of the first value 1, and 0.19 of the batch's variance.
    biased = 0.81 + 0.19 * inputs.detach().var(0, unbiased=False)
    torch.testing.assert_close(ours.running_variance, biased)
    assert torchs.running_var is not None
    assert (torchs.running_var > ours.running_variance).all()


def test_equals_torch_in_evaluation() -> None:
    ours, torchs = build_pair(5)
    assert torchs.running_mean is not None
    assert torchs.running_var is not None
    torchs.running_mean.copy_(ours.running_mean.normal_())
    torchs.running_var.copy_(ours.running_variance.uniform_(0.5, 2))
    inputs = torch.randn(3, 5)
    before = ours.running_mean.clone()
    torch.testing.assert_close(ours.eval()(inputs), torchs.eval()(inputs))
    assert torch.equal(ours.running_mean, before)


def test_statistics_stay_float32_under_bf16() -> None:
    norm = BatchNorm(5)
    norm.running_mean.fill_(1.001)
    cast = nn.Sequential(norm).bfloat16()
    inputs = torch.randn(64, 5).bfloat16()
    assert cast(inputs).dtype == torch.bfloat16
    assert norm.weight.dtype == torch.bfloat16
    assert norm.running_mean.dtype == norm.running_variance.dtype == torch.float32
    expected = 0.9 * 1.001 + 0.1 * inputs.float().mean(0)
    torch.testing.assert_close(norm.running_mean, expected)


def test_weights_can_be_made_on_the_meta_device_first() -> None:
    with torch.device("meta"):
        norm = BatchNorm(5)
    norm.to_empty(device="cpu")
    norm.load_state_dict(BatchNorm(5).state_dict())
    assert norm(torch.randn(4, 5)).mean().item() == pytest.approx(0, abs=1e-6)
