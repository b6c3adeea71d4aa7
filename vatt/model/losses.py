"""Losses of pre-training, NCE and MIL-NCE (VATT 3.4, eq. 4 to 6), and of classifiers (A.2).

All are computed in float32, also under autocast: bfloat16 keeps 8 bits, too few for the small
differences between scores that a softmax over thousands of clips depends on.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vatt.core.batch import Embeddings
from vatt.core.distributed import (
    all_gather_with_gradient,
    all_reduce_sum_with_gradient,
    rank,
    world_size,
)
from vatt.model.transformer import MASKED_SCORE
from vatt.params import LossParams

LENGTH_EPSILON = 1e-6
"""The least length that an embedding is divided by: zeros stay 0, with a finite gradient."""


def softmax_loss(
    logits: Float[Tensor, "B C"], labels: Float[Tensor, "B C"], label_smoothing: float
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the softmax, mean over clips, for one-hot or mixed labels.

    With smoothing a in [0, 1], 0.1 in the paper, labels y of C classes become (1 - a) y + a / C.
    """
    with torch.autocast(logits.device.type, enabled=False):
        smooth = (1 - label_smoothing) * labels.float() + label_smoothing / labels.shape[1]
        return functional.cross_entropy(logits.float(), smooth)


def balanced_sigmoid_loss(
    logits: Float[Tensor, "B C"], labels: Float[Tensor, "B C"]
) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of every class, summed over classes; rare classes weigh more.

    Labels are in [0, 1]: several of a clip may be 1, and mixed ones lie between and are used as
    they are. With n_c the sum of the labels of class c over the clips of all ranks, a clip with
    labels y weighs (sum over c of y_c / n_c) / (sum over c of y_c), and nothing without labels;
    the loss is the mean over clips of weight times cross-entropy. B must be the same on every
    rank; the mean over ranks is the loss of one process with all clips.

    Differs from the original, which counts labels on each replica: with one process it is the same.
    """
    with torch.autocast(logits.device.type, enabled=False):
        labels = labels.float()
        num_of_class: Tensor = all_reduce_sum_with_gradient(labels.sum(0))
        # Where a divisor is 0 so is what it divides.
        rarity = (labels / num_of_class.where(num_of_class > 0, 1)).sum(1)
        num_labels = labels.sum(1)
        weights = rarity / num_labels.where(num_labels > 0, 1)
        losses = functional.binary_cross_entropy_with_logits(
            logits.float(), labels, reduction="none"
        ).sum(1)
        return (weights * losses).mean()


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
    the same on every rank. A loss for which no clip has a valid text (or sound) is zero, and still
    connected to the graph: each rank takes part in every exchange of gradients.
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
    """Return MIL-NCE (eq. 5) of videos and their P >= 1 candidates; with one it is NCE (eq. 4).

    With s the cosine over the temperature, v_i a video and c_ip its candidates, and for clip i

    - own = sum over p of exp s(v_i, c_ip),
    - row = sum over all clips j and p of exp s(v_i, c_jp),
    - column = sum over all clips j and p of exp s(v_j, c_ip),

    the loss of clip i is, by `params.form` and `params.positives`,

    - asymmetric, twice: -log own / (row + column), as released (minimum log 2),
    - asymmetric, once: -log own / (row + column - own), as in the paper (minimum 0),
    - symmetric: -log own / row - log own / column; each has the positives once (minimum 0).

    A masked candidate is neither a positive nor a negative, whatever its embedding is; a clip
    without candidates counts only as a negative video. A NaN in what is not masked makes the loss
    NaN; one in the input of a masked clip only spoils the gradients of its tower.

    Memory for scores is of the order `params.rows_per_chunk` x G x P, not B x G x P.
    """
    with torch.autocast(video.device.type, enabled=False):
        # Masked rows become 0 here, not only their scores below: a score that is masked has the
        # gradient 0, and 0 times a NaN would be a NaN in the gradient of the videos.
        candidates = candidates.float().masked_fill(~mask[..., None], 0)
        own = _Clips(
            functional.normalize(video.float(), dim=-1, eps=LENGTH_EPSILON) / params.temperature,
            functional.normalize(candidates, dim=-1, eps=LENGTH_EPSILON),
            mask,
            torch.arange(len(video), device=video.device) + rank() * len(video),
        )
        # With gradient: a clip is a negative of other ranks' clips, too, and their losses pull at
        # it. Without it each rank would learn from a part of what one process with all clips does.
        every = _Clips(
            all_gather_with_gradient(own.video),
            all_gather_with_gradient(own.candidates),
            all_gather_with_gradient(mask.float()).bool(),
            torch.arange(len(video) * world_size(), device=video.device),
        )
        is_valid = mask.any(1)
        total = _compare_in_chunks(own, every, params).where(is_valid, 0).sum()
        if params.valid_mean == "replica":
            return total / is_valid.sum().clamp(min=1)
        # This rank's share, so that the mean over ranks divides by the valid clips of all.
        return total * world_size() / every.mask.any(1).sum().clamp(min=1)


class _Clips(NamedTuple):
    """Clips to compare; all embeddings of length 1, videos over the temperature."""

    video: Float[Tensor, "B E"]
    candidates: Float[Tensor, "B P E"]
    mask: Bool[Tensor, "B P"]
    number: Int[Tensor, "B"]
    """Counted through over all ranks."""


def _compare_in_chunks(own: _Clips, every: _Clips, params: LossParams) -> Float[Tensor, "B"]:
    """Return the loss of each of this rank's clips; the backward pass computes the scores again."""
    if params.rows_per_chunk is None:
        return _compare(own, every, params)
    compare = partial(checkpoint, _compare, use_reentrant=False, preserve_rng_state=False)
    chunks = zip(*(part.split(params.rows_per_chunk) for part in own), strict=True)
    return torch.cat([compare(_Clips(*chunk), every, params) for chunk in chunks])


def _compare(rows: _Clips, every: _Clips, params: LossParams) -> Float[Tensor, "B"]:
    """Return the loss of each clip of `rows` against all clips."""
    row_scores = torch.einsum("be,gpe->bgp", rows.video, every.candidates)
    column_scores = torch.einsum("ge,bpe->bgp", every.video, rows.candidates)
    own_scores = torch.einsum("be,bpe->bp", rows.video, rows.candidates)
    row = row_scores.masked_fill(~every.mask, MASKED_SCORE).logsumexp((1, 2))
    own = own_scores.masked_fill(~rows.mask, MASKED_SCORE).logsumexp(1)
    left_out = ~rows.mask[:, None]
    if params.form == "asymmetric" and params.positives == "once":
        left_out = left_out | (rows.number[:, None] == every.number)[..., None]
    column = column_scores.masked_fill(left_out, MASKED_SCORE).logsumexp((1, 2))
    if params.form == "symmetric":
        return row + column - 2 * own
    # Own scores stand in both row and column: the positives count twice in the denominator, unless
    # they were left out of the column above.
    return torch.logaddexp(row, column) - own
