"""The loss against slow loops, closed forms, invariances, and a second rank with other clips."""

import math

import pytest
import torch
from torch import Tensor

from tests import reference
from tests.ranks import Ranks
from tests.tiny import LOSS
from vatt.core.batch import Embeddings
from vatt.model.losses import contrastive_loss, nce_loss
from vatt.params import LossParams

PARAMS = LOSS.model_copy(update={"temperature": 0.2, "weight_vt": 3.0})
ONCE = PARAMS.model_copy(update={"positives": "once"})
SYMMETRIC = PARAMS.model_copy(update={"form": "symmetric"})
REPLICA = PARAMS.model_copy(update={"valid_mean": "replica"})
FORMS = [PARAMS, ONCE, SYMMETRIC]
every_form = pytest.mark.parametrize("params", FORMS, ids=["twice", "once", "symmetric"])


def draw(num_clips: int, num_candidates: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
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
    video, candidates, mask = draw(6, num_candidates, seed=num_candidates)
    exact = [part.detach().double().requires_grad_() for part in (video, candidates)]
    expected = reference.mil_nce(exact[0], exact[1], mask, params)
    loss = nce_loss(video, candidates, mask, params)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, [video, candidates])
    for ours, slow in zip(gradients, torch.autograd.grad(expected, exact), strict=True):
        torch.testing.assert_close(ours.double(), slow, rtol=1e-4, atol=1e-6)


@every_form
@pytest.mark.parametrize("num_candidates", [1, 5])
def test_equal_embeddings_cost_the_log_of_the_number_of_terms(
    num_candidates: int, params: LossParams
) -> None:
    num_clips = 4
    video = torch.ones(num_clips, 7)
    candidates = torch.ones(num_clips, num_candidates, 7)
    mask = torch.ones(num_clips, num_candidates, dtype=torch.bool)
    expected = {
        PARAMS: math.log(2 * num_clips),
        ONCE: math.log(2 * num_clips - 1),
        SYMMETRIC: 2 * math.log(num_clips),
    }
    loss = nce_loss(video, candidates, mask, params)
    assert loss.item() == pytest.approx(expected[params], rel=1e-5)


MINIMA = [(PARAMS, math.log(2)), (ONCE, 0.0), (SYMMETRIC, 0.0)]


@pytest.mark.parametrize(("params", "minimum"), MINIMA)
def test_a_lone_clip_is_at_the_minimum(params: LossParams, minimum: float) -> None:
    video, candidates, _ = draw(2, 3)
    loss = nce_loss(video[:1], candidates[:1], torch.ones(1, 3, dtype=torch.bool), params)
    assert loss.item() == pytest.approx(minimum, abs=1e-6)
    for gradient in torch.autograd.grad(loss, [video, candidates]):
        assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize(("params", "minimum"), MINIMA)
def test_clips_told_apart_perfectly_are_at_the_minimum(params: LossParams, minimum: float) -> None:
    sharp = params.model_copy(update={"temperature": 0.05})
    video = torch.eye(4)
    candidates = video[:, None].repeat(1, 3, 1)
    loss = nce_loss(video, candidates, torch.ones(4, 3, dtype=torch.bool), sharp)
    assert loss.item() == pytest.approx(minimum, abs=1e-5)


def test_symmetric_has_the_positives_once_whatever_is_said() -> None:
    other = SYMMETRIC.model_copy(update={"positives": "once"})
    assert nce_loss(*draw(5, 3), other).item() == nce_loss(*draw(5, 3), SYMMETRIC).item()


@every_form
@pytest.mark.parametrize("content", [1.0, 1e30, math.inf, math.nan])
def test_masked_candidates_play_no_part(params: LossParams, content: float) -> None:
    video, candidates, mask = draw(5, 3)
    loss = nce_loss(video, candidates, mask, params)
    replaced = torch.where(mask[..., None], candidates, content)
    same = nce_loss(video, replaced, mask, params)
    assert same.item() == loss.item()
    for expected, gradient in zip(
        torch.autograd.grad(loss, [video, candidates]),
        torch.autograd.grad(same, [video, candidates]),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected)
        assert gradient.abs().max() > 0
    assert torch.equal(gradient[~mask], torch.zeros_like(gradient[~mask]))


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
    assert nce_loss(video, candidates.roll(1, 0), mask, params).item() != pytest.approx(
        loss, rel=1e-2
    )


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
    chunked = params.model_copy(update={"rows_per_chunk": rows_per_chunk})
    video, candidates, mask = draw(6, 3)
    rounded = [part.detach().bfloat16().requires_grad_() for part in (video, candidates)]
    exact = [part.detach().float().requires_grad_() for part in rounded]
    expected = nce_loss(exact[0], exact[1], mask, chunked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nce_loss(rounded[0], rounded[1], mask, chunked)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
    for gradient, other in zip(
        torch.autograd.grad(loss, rounded), torch.autograd.grad(expected, exact), strict=True
    ):
        assert torch.equal(gradient, other.bfloat16())


def draw_batch(num_clips: int) -> tuple[Embeddings, Tensor, Tensor]:
    video_va, audio_va, audio_mask = draw(num_clips, 1, seed=1)
    video_vt, text_vt, text_mask = draw(num_clips, 3, seed=2)
    return Embeddings(video_va, audio_va[:, 0], video_vt, text_vt), audio_mask[:, 0], text_mask


def compute_on_rank(params: LossParams) -> tuple[float, list[Tensor]]:
    """Return the loss of this rank's clips and its gradient for the clips of ALL ranks."""
    size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    embeddings, audio_mask, text_mask = draw_batch(4 * size)
    whole = [embeddings.video_va, embeddings.audio_va, embeddings.video_vt, embeddings.text_vt]
    # Unbalanced: the second rank has one clip with text and none with sound.
    text_mask[5:], audio_mask[4:] = False, False
    own = slice(4 * rank, 4 * rank + 4)
    part = Embeddings(*(tensor[own] for tensor in whole))
    losses = contrastive_loss(part, audio_mask[own], text_mask[own], params)
    gradients = torch.autograd.grad(losses.total, [embeddings.video_va, *whole[1:]])
    return losses.total.item(), list(gradients)


def compute_on_one_process(params: LossParams) -> tuple[float, list[Tensor]]:
    embeddings, audio_mask, text_mask = draw_batch(8)
    whole = [embeddings.video_va, embeddings.audio_va, embeddings.video_vt, embeddings.text_vt]
    text_mask[5:], audio_mask[4:] = False, False
    total = contrastive_loss(embeddings, audio_mask, text_mask, params).total
    return total.item(), list(torch.autograd.grad(total, whole))


CHUNKED = [params.model_copy(update={"rows_per_chunk": 3}) for params in FORMS]


@pytest.mark.parametrize("params", [*FORMS, *CHUNKED])
def test_mean_of_two_ranks_is_one_process_with_all_clips(
    two_ranks: Ranks, params: LossParams
) -> None:
    (loss_0, gradients_0), (loss_1, gradients_1) = two_ranks.run(compute_on_rank, params)
    loss, gradients = compute_on_one_process(params)
    assert (loss_0 + loss_1) / 2 == pytest.approx(loss, rel=1e-6)
    assert loss_0 != pytest.approx(loss_1, rel=1e-2)
    for first, second, whole in zip(gradients_0, gradients_1, gradients, strict=True):
        torch.testing.assert_close((first + second) / 2, whole, rtol=1e-4, atol=1e-7)


def test_replica_mean_divides_by_the_valid_clips_of_the_rank(two_ranks: Ranks) -> None:
    shares = two_ranks.run(compute_on_rank, PARAMS)
    means = two_ranks.run(compute_on_rank, REPLICA)
    # The second rank's one valid clip is its whole mean; of all valid clips it is one in five.
    text_only = [value for value, _ in means][1]
    share = [value for value, _ in shares][1]
    assert share == pytest.approx(text_only * 2 / 5, rel=1e-5)
