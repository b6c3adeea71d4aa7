"""The contrastive loss: NCE for video-audio, MIL-NCE for video-text (VATT section 3.4, eq. 4 to 6)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vatt.batch import Embeddings
from vatt.distributed import all_gather_with_gradient, world_size
from vatt.params import LossParams

MASKED_SCORE = -1e9


@dataclass(frozen=True)
class Losses:
    """The loss of one rank; its mean over the ranks is the loss of the whole batch."""

    total: Float[Tensor, ""]
    video_audio: Float[Tensor, ""]
    video_text: Float[Tensor, ""]


def contrastive_loss(
    embeddings: Embeddings,
    audio_mask: Bool[Tensor, "B"],
    text_mask: Bool[Tensor, "B P"],
    params: LossParams,
) -> Losses:
    """Return the loss of this rank's clips against the clips of all ranks.

    The mean over ranks of values and gradients is that of one process with all clips. B must be
    the same on every rank. A loss for which no clip has a valid text (or sound) is zero, and
    still connected to the graph. Computed in float32, also under autocast.
    """
    video_audio = nce_loss(
        embeddings.video_va, embeddings.audio_va[:, None], audio_mask[:, None], params
    )
    video_text = nce_loss(embeddings.video_vt, embeddings.text_vt, text_mask, params)
    # Differs from the paper, as the original does: the weighted mean of the two, not the sum.
    total = params.weight_va * video_audio + params.weight_vt * video_text
    total = total / (params.weight_va + params.weight_vt)
    return Losses(total, video_audio, video_text)


def nce_loss(
    video: Float[Tensor, "B E"],
    candidates: Float[Tensor, "B P E"],
    mask: Bool[Tensor, "B P"],
    params: LossParams,
) -> Float[Tensor, ""]:
    """Return MIL-NCE of videos and their P candidates; with one candidate it is NCE.

    A masked candidate is neither a positive nor a negative; a clip without candidates counts
    only as a negative video. Differs from the paper, as the original does: both directions share
    one denominator, in which the positives stand twice, so that the minimum is log 2.
    """
    with torch.autocast(video.device.type, enabled=False):
        video = functional.normalize(video.float(), dim=-1, eps=1e-6)
        candidates = functional.normalize(candidates.float(), dim=-1, eps=1e-6)
        video_all = all_gather_with_gradient(video)
        candidates_all = all_gather_with_gradient(candidates)
        mask_all = all_gather_with_gradient(mask.float()).bool()

        to_candidates = torch.einsum("be,gpe->bgp", video, candidates_all) / params.temperature
        to_videos = torch.einsum("ge,bpe->bgp", video_all, candidates) / params.temperature
        to_own = torch.einsum("be,bpe->bp", video, candidates) / params.temperature
        to_candidates = to_candidates.masked_fill(~mask_all, MASKED_SCORE)
        to_videos = to_videos.masked_fill(~mask[:, None], MASKED_SCORE)
        to_own = to_own.masked_fill(~mask, MASKED_SCORE)
        every = torch.cat([to_candidates.flatten(1), to_videos.flatten(1)], dim=1)
        losses = every.logsumexp(1) - to_own.logsumexp(1)
        return _mean_of_valid(losses, mask.any(1), mask_all.any(1), params.valid_mean)


def _mean_of_valid(
    losses: Float[Tensor, "B"],
    is_valid: Bool[Tensor, "B"],
    is_valid_all: Bool[Tensor, "G"],
    valid_mean: Literal["global", "replica"],
) -> Float[Tensor, ""]:
    """Return the mean over the valid clips of all ranks, as this rank's share, or of this rank."""
    total = losses.where(is_valid, 0).sum()
    if valid_mean == "replica":
        return total / is_valid.sum().clamp(min=1)
    return total * world_size() / is_valid_all.sum().clamp(min=1)
