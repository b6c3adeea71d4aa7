"""Losses of classifiers against the original's numbers, slow loops, closed forms, and a second rank."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ranks import Ranks
from vatt.model.losses import balanced_sigmoid_loss, softmax_loss

REFERENCE = Path(__file__).parents[1] / "reference"


def read(name: str) -> tuple[Tensor, Tensor, float]:
    """Return logits, labels and loss of an original classifier in training."""
    with np.load(REFERENCE / name) as content:
        logits, labels = (torch.tensor(content[key]) for key in ("train:/logits", "in::one_hot"))
        return logits, labels, float(content["train::model_loss"])


def draw(num_clips: int) -> tuple[Tensor, Tensor]:
    """Draw logits and labels: several a clip, mixed ones, one clip and one class without any."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_clips, 5, generator=generator) * 3
    labels = (torch.rand(num_clips, 5, generator=generator) < 0.4).float()
    labels[0], labels[:, 2], labels[1, 0] = torch.tensor([0.3, 0, 0.7, 0, 0]), 0, 1
    labels[-1] = 0
    return logits.requires_grad_(), labels


def softmax_slowly(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    num_clips, num_classes = labels.shape
    total = torch.zeros((), dtype=logits.dtype)
    for clip in range(num_clips):
        everything = sum(torch.exp(logit) for logit in logits[clip])
        for index in range(num_classes):
            label = (1 - smoothing) * labels[clip, index] + smoothing / num_classes
            total = total - label * torch.log(torch.exp(logits[clip, index]) / everything)
    return total / num_clips


def balanced_slowly(logits: Tensor, labels: Tensor) -> Tensor:
    num_clips, num_classes = labels.shape
    total = torch.zeros((), dtype=logits.dtype)
    for clip in range(num_clips):
        weight, loss = torch.zeros(2, dtype=logits.dtype)
        for index in range(num_classes):
            label = labels[clip, index]
            rate = 1 / (1 + torch.exp(-logits[clip, index]))
            loss = loss - label * torch.log(rate) - (1 - label) * torch.log(1 - rate)
            if label > 0:
                weight = weight + label / labels[:, index].sum() / labels[clip].sum()
        total = total + weight * loss
    return total / num_clips


def test_softmax_loss_is_that_of_the_original_video_classifier() -> None:
    logits, labels, expected = read("parity_cls_vit.npz")
    assert softmax_loss(logits, labels, 0.0).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["parity_cls_wat.npz", "parity_cls_spt.npz"])
def test_balanced_loss_is_that_of_the_original_audio_classifiers(name: str) -> None:
    logits, labels, expected = read(name)
    assert balanced_sigmoid_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_softmax_loss_equals_slow_loops(smoothing: float) -> None:
    logits, labels = draw(6)
    mixed = (labels + 0.1) / (labels + 0.1).sum(1, keepdim=True)
    exact = logits.detach().double().requires_grad_()
    loss, expected = (
        softmax_loss(logits, mixed, smoothing),
        softmax_slowly(exact, mixed.double(), smoothing),
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,), (slow,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, exact)
    torch.testing.assert_close(gradient.double(), slow, rtol=1e-5, atol=1e-7)


def test_balanced_loss_equals_slow_loops() -> None:
    logits, labels = draw(6)
    exact = logits.detach().double().requires_grad_()
    loss, expected = balanced_sigmoid_loss(logits, labels), balanced_slowly(exact, labels.double())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,), (slow,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, exact)
    torch.testing.assert_close(gradient.double(), slow, rtol=1e-5, atol=1e-7)


def test_equal_logits_cost_the_log_of_the_number_of_classes() -> None:
    one_hot = torch.eye(4)
    for smoothing in (0.0, 0.1):
        assert softmax_loss(torch.ones(4, 4), one_hot, smoothing).item() == pytest.approx(
            math.log(4)
        )
    # Every class has one clip: every weight is 1; four classes at a probability of one half.
    assert balanced_sigmoid_loss(torch.zeros(4, 4), one_hot).item() == pytest.approx(
        4 * math.log(2)
    )


def test_a_class_of_many_clips_weighs_as_much_as_one_of_few() -> None:
    labels = torch.eye(2)[[0, 1, 1, 1]]
    many_wrong, few_wrong = torch.zeros(2, 4, 2)
    many_wrong[1:, 1], few_wrong[0, 0] = -2.0, -2.0
    wrong = [balanced_sigmoid_loss(logits, labels).item() for logits in (many_wrong, few_wrong)]
    assert wrong[0] == pytest.approx(wrong[1])


def test_without_any_label_the_balanced_loss_is_zero() -> None:
    logits, labels = draw(4)
    loss = balanced_sigmoid_loss(logits, torch.zeros_like(labels))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, logits)[0].abs().max() == 0


def test_large_logits_stay_finite_and_bf16_is_computed_in_float32() -> None:
    logits, labels = draw(6)
    large = (logits.detach() * 1000).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = softmax_loss(large, labels, 0.1), balanced_sigmoid_loss(large, labels)
    exact = softmax_loss(large.float(), labels, 0.1), balanced_sigmoid_loss(large.float(), labels)
    assert [loss.item() for loss in losses] == [loss.item() for loss in exact]
    assert all(loss.isfinite() for loss in losses)


def compute_on_rank() -> tuple[float, Tensor]:
    size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    logits, labels = draw(4 * size)
    own = slice(4 * rank, 4 * rank + 4)
    loss = balanced_sigmoid_loss(logits[own], labels[own])
    return loss.item(), torch.autograd.grad(loss, logits)[0]


def test_mean_of_two_ranks_is_one_process_with_all_clips(two_ranks: Ranks) -> None:
    (loss_0, gradient_0), (loss_1, gradient_1) = two_ranks.run(compute_on_rank)
    logits, labels = draw(8)
    loss = balanced_sigmoid_loss(logits, labels)
    assert (loss_0 + loss_1) / 2 == pytest.approx(loss.item(), rel=1e-6)
    assert loss_0 != pytest.approx(loss_1, rel=1e-2)
    torch.testing.assert_close(
        (gradient_0 + gradient_1) / 2, torch.autograd.grad(loss, logits)[0], rtol=1e-5, atol=1e-8
    )
