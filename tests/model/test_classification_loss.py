"""Losses of classifiers against the original's numbers, slow loops, closed forms, a second rank."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.model.original import Original
from tests.ranks import Ranks
from vatt.model.losses import balanced_sigmoid_loss, softmax_loss


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


def assert_equal(loss: Tensor, logits: Tensor, slow_loss: Tensor, slow_logits: Tensor) -> None:
    """Compare value and gradient."""
    assert loss.item() == pytest.approx(slow_loss.item(), rel=1e-6)
    gradient = torch.autograd.grad(loss, logits)
    slow = torch.autograd.grad(slow_loss, slow_logits)
    assert_close(gradient, slow, rtol=1e-5, atol=1e-7, check_dtype=False)


def test_softmax_loss_is_that_of_the_original_video_classifier() -> None:
    original = Original("cls_vit")
    loss = softmax_loss(original.tensor("train:/logits"), original.tensor("in::one_hot"), 0.0)
    assert loss.item() == pytest.approx(float(original.numbers["train::model_loss"]), rel=1e-6)


@pytest.mark.parametrize("name", ["cls_wat", "cls_spt"])
def test_balanced_loss_is_that_of_the_original_audio_classifiers(name: str) -> None:
    original = Original(name)
    loss = balanced_sigmoid_loss(original.tensor("train:/logits"), original.tensor("in::one_hot"))
    assert loss.item() == pytest.approx(float(original.numbers["train::model_loss"]), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_softmax_loss_equals_slow_loops(smoothing: float) -> None:
    logits, labels = draw(6)
    mixed = (labels + 0.1) / (labels + 0.1).sum(1, keepdim=True)
    exact = logits.detach().double().requires_grad_()
    slow = softmax_slowly(exact, mixed.double(), smoothing)
    assert_equal(softmax_loss(logits, mixed, smoothing), logits, slow, exact)


def test_balanced_loss_equals_slow_loops() -> None:
    logits, labels = draw(6)
    exact = logits.detach().double().requires_grad_()
    slow = balanced_slowly(exact, labels.double())
    assert_equal(balanced_sigmoid_loss(logits, labels), logits, slow, exact)


def test_equal_logits_cost_the_log_of_the_number_of_classes() -> None:
    one_hot = torch.eye(4)
    for smoothing in (0.0, 0.1):
        loss = softmax_loss(torch.ones(4, 4), one_hot, smoothing)
        assert loss.item() == pytest.approx(math.log(4))
    # Every class has one clip: every weight is 1; four classes at a probability of one half.
    loss = balanced_sigmoid_loss(torch.zeros(4, 4), one_hot)
    assert loss.item() == pytest.approx(4 * math.log(2))


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
    loss = balanced_sigmoid_loss(logits.chunk(size)[rank], labels.chunk(size)[rank])
    return loss.item(), torch.autograd.grad(loss, logits)[0]


def test_mean_of_two_ranks_is_one_process_with_all_clips(two_ranks: Ranks) -> None:
    (loss_0, gradient_0), (loss_1, gradient_1) = two_ranks.run(compute_on_rank)
    logits, labels = draw(8)
    loss = balanced_sigmoid_loss(logits, labels)
    assert (loss_0 + loss_1) / 2 == pytest.approx(loss.item(), rel=1e-6)
    assert loss_0 != pytest.approx(loss_1, rel=1e-2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert_close((gradient_0 + gradient_1) / 2, gradient, rtol=1e-5, atol=1e-8)
