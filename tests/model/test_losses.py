"""Losses against the original's numbers, slow loops, closed forms, invariances, a second rank."""

import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import reference
from tests.model.original import Original
from tests.ranks import Ranks
from tests.tiny import LOSS
from vatt.core.batch import Embeddings
from vatt.model.losses import balanced_sigmoid_loss, contrastive_loss, nce_loss, softmax_loss
from vatt.params import LossParams

PARAMS = LOSS.model_copy(update={"temperature": 0.2, "weight_vt": 3.0})
ONCE = PARAMS.model_copy(update={"positives": "once"})
SYMMETRIC = PARAMS.model_copy(update={"form": "symmetric"})
REPLICA = PARAMS.model_copy(update={"valid_mean": "replica"})
FORMS = [PARAMS, ONCE, SYMMETRIC]
every_form = pytest.mark.parametrize("params", FORMS, ids=["twice", "once", "symmetric"])
MINIMA = [(PARAMS, math.log(2)), (ONCE, 0.0), (SYMMETRIC, 0.0)]
Draw = tuple[Tensor, Tensor, Tensor]


def chunked(params: LossParams, rows: int | None) -> LossParams:
    return params.model_copy(update={"rows_per_chunk": rows})


def draw(num_clips: int, num_candidates: int, seed: int = 0) -> Draw:
    """Draw videos, candidates and a mask with gaps; the last clip has no candidate at all."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(num_clips, 7, generator=generator)
    candidates = torch.randn(num_clips, num_candidates, 7, generator=generator)
    mask = torch.rand(num_clips, num_candidates, generator=generator) < 0.7
    mask[0], mask[-1] = True, False
    return video.requires_grad_(), candidates.requires_grad_(), mask


@every_form
@pytest.mark.parametrize("num_candidates", [1, 2, 5])
def test_equals_slow_loops_in_value_and_gradient(num_candidates: int, params: LossParams) -> None:
    *sources, mask = draw(6, num_candidates, seed=num_candidates)
    exact = [part.detach().double().requires_grad_() for part in sources]
    expected = reference.mil_nce(exact[0], exact[1], mask, params)
    loss = nce_loss(sources[0], sources[1], mask, params)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients, slow = torch.autograd.grad(loss, sources), torch.autograd.grad(expected, exact)
    assert_close(gradients, slow, rtol=1e-4, atol=1e-6, check_dtype=False)


@every_form
@pytest.mark.parametrize("num_candidates", [1, 5])
def test_equal_embeddings_cost_the_log_of_the_number_of_terms(
    num_candidates: int, params: LossParams
) -> None:
    expected = {PARAMS: math.log(8), ONCE: math.log(7), SYMMETRIC: 2 * math.log(4)}
    candidates = torch.ones(4, num_candidates, 7)
    loss = nce_loss(torch.ones(4, 7), candidates, candidates[..., 0] > 0, params)
    assert loss.item() == pytest.approx(expected[params], rel=1e-5)


@pytest.mark.parametrize(("params", "minimum"), MINIMA)
def test_a_lone_clip_and_clips_told_apart_perfectly_are_at_the_minimum(
    params: LossParams, minimum: float
) -> None:
    video, candidates, _ = draw(2, 3)
    loss = nce_loss(video[:1], candidates[:1], torch.ones(1, 3, dtype=torch.bool), params)
    assert loss.item() == pytest.approx(minimum, abs=1e-6)
    for gradient in torch.autograd.grad(loss, [video, candidates]):
        assert gradient.abs().max() < 1e-6
    sharp, corners = params.model_copy(update={"temperature": 0.05}), torch.eye(4)
    mask = torch.ones(4, 3, dtype=torch.bool)
    loss = nce_loss(corners, corners[:, None].repeat(1, 3, 1), mask, sharp)
    assert loss.item() == pytest.approx(minimum, abs=1e-5)


def test_symmetric_has_the_positives_once_whatever_is_said() -> None:
    other = SYMMETRIC.model_copy(update={"positives": "once"})
    assert nce_loss(*draw(5, 3), other).item() == nce_loss(*draw(5, 3), SYMMETRIC).item()


@every_form
@pytest.mark.parametrize("content", [1.0, 1e30, math.inf, math.nan])
def test_masked_candidates_play_no_part(params: LossParams, content: float) -> None:
    video, candidates, mask = draw(5, 3)
    loss = nce_loss(video, candidates, mask, params)
    same = nce_loss(video, torch.where(mask[..., None], candidates, content), mask, params)
    assert same.item() == loss.item()
    gradients = torch.autograd.grad(same, [video, candidates])
    assert_close(gradients, torch.autograd.grad(loss, [video, candidates]))
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert not gradients[1][~mask].any()


@every_form
def test_a_nan_is_not_hidden(params: LossParams) -> None:
    video, candidates, mask = (part.detach() for part in draw(5, 3))
    broken_video, broken_candidates = video.clone(), candidates.clone()
    broken_video[-1, 0] = broken_candidates[0, 1, 0] = math.nan  # the last clip has no candidates
    assert nce_loss(broken_video, candidates, mask, params).isnan()
    assert nce_loss(video, broken_candidates, mask, params).isnan()


@every_form
def test_invariances(params: LossParams) -> None:
    video, candidates, mask = draw(5, 3)
    loss = nce_loss(video, candidates, mask, params).item()
    clips, places = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([2, 0, 1])
    same = [
        nce_loss(video[clips], candidates[clips], mask[clips], params),
        nce_loss(video, candidates[:, places], mask[:, places], params),
        nce_loss(video * 5, candidates * torch.rand(5, 3, 1).add(0.1), mask, params),
    ]
    assert [value.item() for value in same] == pytest.approx([loss] * 3, rel=1e-5)
    other = nce_loss(video, candidates.roll(1, 0), mask, params)
    assert other.item() != pytest.approx(loss, rel=1e-2)


@pytest.mark.parametrize("params", [*FORMS, REPLICA])
def test_without_any_valid_clip_the_loss_is_zero_and_connected(params: LossParams) -> None:
    video, candidates, mask = draw(4, 3)
    loss = nce_loss(video, candidates, torch.zeros_like(mask), params)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, [video, candidates]):
        assert gradient.abs().max() == 0


def test_a_batch_without_any_text_trains_on_its_sound_alone() -> None:
    embeddings, audio_mask, text_mask = draw_batch(6)
    losses = contrastive_loss(embeddings, audio_mask, torch.zeros_like(text_mask), PARAMS)
    assert losses.video_text.item() == 0
    assert losses.total.item() == pytest.approx(losses.video_audio.item() / 4, rel=1e-6)
    (gradient,) = torch.autograd.grad(losses.total, embeddings.video_va)
    assert gradient.abs().max() > 0


def test_total_is_the_weighted_mean() -> None:
    embeddings, audio_mask, text_mask = draw_batch(6)
    losses = contrastive_loss(embeddings, audio_mask, text_mask, PARAMS)
    audio = reference.mil_nce(
        embeddings.video_va, embeddings.audio_va[:, None], audio_mask[:, None], PARAMS
    ).item()
    text = reference.mil_nce(embeddings.video_vt, embeddings.text_vt, text_mask, PARAMS).item()
    assert losses.video_audio.item() == pytest.approx(audio, rel=1e-5)
    assert losses.video_text.item() == pytest.approx(text, rel=1e-5)
    assert losses.total.item() == pytest.approx((audio + 3 * text) / 4, rel=1e-5)


@every_form
@pytest.mark.parametrize("rows_per_chunk", [None, 2])
def test_is_computed_in_float32_under_bf16(params: LossParams, rows_per_chunk: int | None) -> None:
    params = chunked(params, rows_per_chunk)
    video, candidates, mask = draw(6, 3)
    rounded = [part.detach().bfloat16().requires_grad_() for part in (video, candidates)]
    exact = [part.detach().float().requires_grad_() for part in rounded]
    expected = nce_loss(exact[0], exact[1], mask, params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nce_loss(rounded[0], rounded[1], mask, params)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
    slow = [gradient.bfloat16() for gradient in torch.autograd.grad(expected, exact)]
    assert_close(list(torch.autograd.grad(loss, rounded)), slow, rtol=0, atol=0)


@every_form
@pytest.mark.parametrize("rows_per_chunk", [1, 4, 6, 100])
def test_equals_all_at_once_in_value_and_gradient(params: LossParams, rows_per_chunk: int) -> None:
    *sources, mask = draw(12, 2)
    expected, loss = (
        nce_loss(sources[0], sources[1], mask, chunked(params, rows))
        for rows in (None, rows_per_chunk)
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients, whole = (torch.autograd.grad(value, sources) for value in (loss, expected))
    assert_close(gradients, whole, rtol=1e-5, atol=1e-7)


class PeakMemory(TorchDispatchMode):
    """Measures the most bytes of tensors that were made inside and lived at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes: int = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        _types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in self._live:
                storage = tensor.untyped_storage()
                self._live[id(storage)] = storage.nbytes()
                weakref.finalize(storage, self._live.pop, id(storage))
        self.peak_bytes = max(self.peak_bytes, sum(self._live.values()))
        return result


@every_form
def test_peak_memory_falls_with_the_chunk(params: LossParams) -> None:
    num_clips, num_candidates = 256, 2
    row_bytes = 4 * num_clips * num_candidates  # the scores of one clip with all candidates
    peak_bytes = {}
    for rows in (None, 64, 16):
        parts = draw(num_clips, num_candidates)
        with PeakMemory() as memory:  # the backward pass, too
            nce_loss(*parts, chunked(params, rows)).backward()
        peak_bytes[rows] = memory.peak_bytes
    assert peak_bytes[None] > 2 * num_clips * row_bytes  # both directions
    for rows in (64, 16):
        # Both directions, their exponentials and gradients; and the embeddings of all clips.
        assert peak_bytes[rows] < 6 * (rows + 8) * row_bytes


def draw_batch(num_clips: int) -> tuple[Embeddings, Tensor, Tensor]:
    video_va, audio_va, audio_mask = draw(num_clips, 1, seed=1)
    video_vt, text_vt, text_mask = draw(num_clips, 3, seed=2)
    return Embeddings(video_va, audio_va[:, 0], video_vt, text_vt), audio_mask[:, 0], text_mask


def compute(params: LossParams, num_ranks: int = 1) -> tuple[float, tuple[Tensor, ...]]:
    """Return the loss of this rank's of 8 clips and its gradient for the clips of ALL ranks."""
    rank = torch.distributed.get_rank() if num_ranks > 1 else 0
    embeddings, audio_mask, text_mask = draw_batch(8)
    whole = list(vars(embeddings).values())
    # Unbalanced: the second rank has one clip with text and none with sound.
    text_mask[5:], audio_mask[4:] = False, False
    part = Embeddings(*(tensor.chunk(num_ranks)[rank] for tensor in whole))
    own = [mask.chunk(num_ranks)[rank] for mask in (audio_mask, text_mask)]
    total = contrastive_loss(part, own[0], own[1], params).total
    return total.item(), torch.autograd.grad(total, whole)


@pytest.mark.parametrize("params", [*FORMS, *(chunked(params, 3) for params in FORMS)])
def test_mean_of_two_ranks_is_one_process_with_all_clips(
    two_ranks: Ranks, params: LossParams
) -> None:
    (loss_0, gradients_0), (loss_1, gradients_1) = two_ranks.run(compute, params, 2)
    loss, gradients = compute(params)
    assert (loss_0 + loss_1) / 2 == pytest.approx(loss, rel=1e-6)
    assert loss_0 != pytest.approx(loss_1, rel=1e-2)
    pairs = zip(gradients_0, gradients_1, strict=True)
    means = tuple((first + second) / 2 for first, second in pairs)
    assert_close(means, gradients, rtol=1e-4, atol=1e-7)


def test_replica_mean_divides_by_the_valid_clips_of_the_rank(two_ranks: Ranks) -> None:
    shares, means = (two_ranks.run(compute, params, 2) for params in (PARAMS, REPLICA))
    # The second rank's one valid clip is its whole mean; of all valid clips it is one in five.
    assert shares[1][0] == pytest.approx(means[1][0] * 2 / 5, rel=1e-5)


def draw_labelled(num_clips: int) -> tuple[Tensor, Tensor]:
    """Draw logits and labels: several a clip, mixed ones, one clip and one class without any."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_clips, 5, generator=generator) * 3
    labels = (torch.rand(num_clips, 5, generator=generator) < 0.4).float()
    labels[0], labels[:, 2], labels[1, 0] = torch.tensor([0.3, 0, 0.7, 0, 0]), 0, 1
    labels[-1] = 0
    return logits.requires_grad_(), labels


def softmax_slowly(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    smooth = (1 - smoothing) * labels + smoothing / labels.shape[1]
    rates = logits.exp() / logits.exp().sum(1, keepdim=True)
    return -(smooth * rates.log()).sum(1).mean()


def balanced_slowly(logits: Tensor, labels: Tensor) -> Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    for clip in range(len(labels)):
        weight, loss = torch.zeros(2, dtype=logits.dtype)
        for index, label in enumerate(labels[clip]):
            rate = 1 / (1 + torch.exp(-logits[clip, index]))
            loss = loss - label * torch.log(rate) - (1 - label) * torch.log(1 - rate)
            if label > 0:
                weight = weight + label / labels[:, index].sum() / labels[clip].sum()
        total = total + weight * loss
    return total / len(labels)


def assert_equal(loss: Tensor, logits: Tensor, slow_loss: Tensor, slow_logits: Tensor) -> None:
    """Compare value and gradient."""
    assert loss.item() == pytest.approx(slow_loss.item(), rel=1e-6)
    gradient = torch.autograd.grad(loss, logits)
    slow = torch.autograd.grad(slow_loss, slow_logits)
    assert_close(gradient, slow, rtol=1e-5, atol=1e-7, check_dtype=False)


@pytest.mark.parametrize("name", ["cls_vit", "cls_wat", "cls_spt"])
def test_losses_are_those_of_the_originals_classifiers(name: str) -> None:
    """Of video the softmax, of sound the balanced sigmoids."""
    original = Original(name)
    logits, labels = original.tensor("train:/logits"), original.tensor("in::one_hot")
    is_video = name == "cls_vit"
    loss = softmax_loss(logits, labels, 0.0) if is_video else balanced_sigmoid_loss(logits, labels)
    assert loss.item() == pytest.approx(float(original.numbers["train::model_loss"]), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_softmax_loss_equals_slow_loops(smoothing: float) -> None:
    logits, labels = draw_labelled(6)
    mixed = (labels + 0.1) / (labels + 0.1).sum(1, keepdim=True)
    exact = logits.detach().double().requires_grad_()
    slow = softmax_slowly(exact, mixed.double(), smoothing)
    assert_equal(softmax_loss(logits, mixed, smoothing), logits, slow, exact)


def test_balanced_loss_equals_slow_loops() -> None:
    logits, labels = draw_labelled(6)
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
    logits, labels = draw_labelled(4)
    loss = balanced_sigmoid_loss(logits, torch.zeros_like(labels))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, logits)[0].abs().max() == 0


def test_large_logits_stay_finite_and_bf16_is_computed_in_float32() -> None:
    logits, labels = draw_labelled(6)
    large = (logits.detach() * 1000).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = softmax_loss(large, labels, 0.1), balanced_sigmoid_loss(large, labels)
    exact = softmax_loss(large.float(), labels, 0.1), balanced_sigmoid_loss(large.float(), labels)
    assert [loss.item() for loss in losses] == [loss.item() for loss in exact]
    assert all(loss.isfinite() for loss in losses)


def balance_on_rank() -> tuple[float, Tensor]:
    size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    logits, labels = draw_labelled(4 * size)
    loss = balanced_sigmoid_loss(logits.chunk(size)[rank], labels.chunk(size)[rank])
    return loss.item(), torch.autograd.grad(loss, logits)[0]


def test_balanced_loss_of_two_ranks_is_that_of_one_process(two_ranks: Ranks) -> None:
    (loss_0, gradient_0), (loss_1, gradient_1) = two_ranks.run(balance_on_rank)
    logits, labels = draw_labelled(8)
    loss = balanced_sigmoid_loss(logits, labels)
    assert (loss_0 + loss_1) / 2 == pytest.approx(loss.item(), rel=1e-6)
    assert loss_0 != pytest.approx(loss_1, rel=1e-2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert_close((gradient_0 + gradient_1) / 2, gradient, rtol=1e-5, atol=1e-8)
