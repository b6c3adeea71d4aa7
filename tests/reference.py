"""The paper's equations as slow loops over single numbers, to test the fast code against."""

import math

import torch
from torch import Tensor

from vatt.params import LossParams


def mil_nce(video: Tensor, candidates: Tensor, mask: Tensor, params: LossParams) -> Tensor:
    """MIL-NCE in all its forms; NCE where clips have one candidate."""
    clips = range(len(video))

    def similar(i: int, j: int, p: int) -> Tensor:
        if not mask[j, p]:
            return torch.zeros((), dtype=video.dtype)
        cosine = video[i] @ candidates[j, p] / (video[i].norm() * candidates[j, p].norm())
        return torch.exp(cosine / params.temperature)

    losses = []
    for i in (clip for clip in clips if mask[clip].any()):
        positives, negative_texts, negative_videos = torch.zeros(3, dtype=video.dtype)
        for p in range(candidates.shape[1]):
            positives = positives + similar(i, i, p)
            for j in (clip for clip in clips if clip != i):
                negative_texts = negative_texts + similar(i, j, p)
                negative_videos = negative_videos + similar(j, i, p)
        if params.form == "symmetric":
            by_text = -torch.log(positives / (positives + negative_texts))
            by_video = -torch.log(positives / (positives + negative_videos))
            losses.append(by_text + by_video)
        else:
            times = 2 if params.positives == "twice" else 1
            everything = times * positives + negative_texts + negative_videos
            losses.append(-torch.log(positives / everything))
    return torch.stack(losses).mean()


def relative_bucket(offset: int, num_buckets: int, max_distance: int) -> int:
    """T5's bucket of one offset, found by walking outwards through the bounds of the buckets."""
    per_side = num_buckets // 2
    num_exact = per_side // 2

    def bound(bucket: int) -> float:
        """Return the smallest distance that falls into a bucket of one side."""
        share = (bucket - num_exact) / (per_side - num_exact)
        exact = bucket <= num_exact
        return bucket if exact else float(num_exact * (max_distance / num_exact) ** share)

    bucket = 0
    while bucket < per_side - 1 and abs(offset) >= bound(bucket + 1):
        bucket += 1
    return bucket + (per_side if offset > 0 else 0)


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention of one head, (L, H) each, with `bias` (L, L) added to the scores."""
    rows = []
    for i in range(len(query)):
        scores = [float(query[i] @ key[j]) * scale + float(bias[i, j]) for j in range(len(key))]
        weights = [math.exp(score - max(scores)) for score in scores]
        row = sum(weight * value[j] for j, weight in enumerate(weights))
        rows.append(torch.as_tensor(row) / sum(weights))
    return torch.stack(rows)


def mel(frequency_hz: float) -> float:
    """The HTK mel scale."""
    return 2595 * math.log10(1 + frequency_hz / 700)
