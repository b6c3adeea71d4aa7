"""The loss against slow loops, closed forms, invariances, and a second rank with other clips."""

import math

import pytest
import torch
from torch import Tensor

from tests import reference
from tests.ranks import Ranks
from vatt.batch import Embeddings
from vatt.losses.contrastive import contrastive_loss, nce_loss
from vatt.params import LossParams

PARAMS = LossParams(temperature=0.2, weight_va=1.0, weight_vt=3.0, valid_mean="global")
REPLICA = PARAMS.model_copy(update={"valid_mean": "replica"})


def draw(num_clips: int, num_candidates: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Draw videos, candidates and a mask with gaps; the last clip has no candidate at all."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(num_clips, 7, generator=generator)
    candidates = torch.randn(num_clips, num_candidates, 7, generator=generator)
    mask = torch.rand(num_clips, num_candidates, generator=generator) < 0.7
    mask[0], mask[-1] = True, False
    return video.requires_grad_(), candidates.requires_grad_(), mask


@pytest.mark.parametrize("num_candidates", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_equals_slow_loops_in_value_and_gradient(num_candidates: int, seed: int) -> None:
    video, candidates, mask = draw(6, num_candidates, seed)
    exact = [part.detach().double().requires_grad_() for part in (video, candidates)]
    expected = reference.mil_nce(exact[0], exact[1], mask, PARAMS.temperature)
    loss = nce_loss(video, candidates, mask, PARAMS)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, [video, candidates])
    for ours, slow in zip(gradients, torch.autograd.grad(expected, exact), strict=True):
        torch.testing.assert_close(ours.double(), slow, rtol=1e-4, atol=1e-6)


def test_a_lone_clip_reaches_the_minimum_of_log_2() -> None:
    video, candidates, _ = draw(2, 1)
    loss = nce_loss(video[:1], candidates[:1], torch.ones(1, 1, dtype=torch.bool), PARAMS)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_masked_candidates_play_no_part() -> None:
    video, candidates, mask = draw(5, 3)
    loss = nce_loss(video, candidates, mask, PARAMS)
    (gradient,) = torch.autograd.grad(loss, candidates)
    assert gradient[~mask].abs().max() == 0
    assert gradient[mask].abs().amax() > 0
    replaced = torch.where(mask[..., None], candidates, torch.randn(5, 3, 7))
    assert nce_loss(video, replaced, mask, PARAMS).item() == pytest.approx(loss.item(), rel=1e-6)


def test_invariances() -> None:
    video, candidates, mask = draw(5, 3)
    loss = nce_loss(video, candidates, mask, PARAMS).item()
    clips, places = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([2, 0, 1])
    same = [
        nce_loss(video[clips], candidates[clips], mask[clips], PARAMS),
        nce_loss(video, candidates[:, places], mask[:, places], PARAMS),
        nce_loss(video * 5, candidates * torch.rand(5, 3, 1).add(0.1), mask, PARAMS),
    ]
    assert [value.item() for value in same] == pytest.approx([loss] * 3, rel=1e-5)
    assert nce_loss(video, candidates.roll(1, 0), mask, PARAMS).item() != pytest.approx(
        loss, rel=1e-2
    )


def test_without_any_valid_clip_the_loss_is_zero_and_connected() -> None:
    video, candidates, mask = draw(4, 3)
    for params in (PARAMS, REPLICA):
        loss = nce_loss(video, candidates, torch.zeros_like(mask), params)
        assert loss.item() == 0
        for gradient in torch.autograd.grad(loss, [video, candidates]):
            assert gradient.abs().max() == 0


def test_total_is_the_weighted_mean() -> None:
    embeddings, audio_mask, text_mask = draw_batch(6)
    losses = contrastive_loss(embeddings, audio_mask, text_mask, PARAMS)
    audio = reference.mil_nce(
        embeddings.video_va, embeddings.audio_va[:, None], audio_mask[:, None], 0.2
    ).item()
    text = reference.mil_nce(embeddings.video_vt, embeddings.text_vt, text_mask, 0.2).item()
    assert losses.video_audio.item() == pytest.approx(audio, rel=1e-5)
    assert losses.video_text.item() == pytest.approx(text, rel=1e-5)
    assert losses.total.item() == pytest.approx((audio + 3 * text) / 4, rel=1e-5)


def test_is_computed_in_float32_under_bf16() -> None:
    video, candidates, mask = draw(6, 3)
    rounded = video.bfloat16(), candidates.bfloat16()
    expected = nce_loss(rounded[0].float(), rounded[1].float(), mask, PARAMS).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nce_loss(*rounded, mask, PARAMS).item() == expected


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


def compute_on_one_process() -> tuple[float, list[Tensor]]:
    embeddings, audio_mask, text_mask = draw_batch(8)
    whole = [embeddings.video_va, embeddings.audio_va, embeddings.video_vt, embeddings.text_vt]
    text_mask[5:], audio_mask[4:] = False, False
    total = contrastive_loss(embeddings, audio_mask, text_mask, PARAMS).total
    return total.item(), list(torch.autograd.grad(total, whole))


def test_mean_of_two_ranks_is_one_process_with_all_clips(two_ranks: Ranks) -> None:
    (loss_0, gradients_0), (loss_1, gradients_1) = two_ranks.run(compute_on_rank, PARAMS)
    loss, gradients = compute_on_one_process()
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
