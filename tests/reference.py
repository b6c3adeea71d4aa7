"""The paper's equations as slow loops over single numbers, to test the fast code against."""

import math

import torch
from torch import Tensor


def mil_nce(video: Tensor, candidates: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """MIL-NCE with one denominator for both directions; NCE where clips have one candidate."""
    clips, places = range(len(video)), range(candidates.shape[1])
    losses = []
    for i in clips:
        own = [p for p in places if mask[i, p]]
        if not own:
            continue
        positives = sum(_similarity(video[i], candidates[i, p], temperature) for p in own)
        everything = torch.zeros((), dtype=video.dtype)
        for j in clips:
            for p in places:
                if mask[j, p]:
                    everything = everything + _similarity(video[i], candidates[j, p], temperature)
                if mask[i, p]:
                    everything = everything + _similarity(video[j], candidates[i, p], temperature)
        losses.append(-torch.log(positives / everything))
    return torch.stack(losses).mean()


def _similarity(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    cosine = left @ right / (left.norm() * right.norm())
    return torch.exp(cosine / temperature)


def relative_bucket(offset: int, num_buckets: int, max_distance: int) -> int:
    """T5's bucket of one offset, found by walking outwards through the bounds of the buckets."""
    per_side = num_buckets // 2
    num_exact = per_side // 2
    distance, bucket = abs(offset), 0
    while bucket < per_side - 1 and distance >= _bound(
        bucket + 1, num_exact, per_side, max_distance
    ):
        bucket += 1
    return bucket + (per_side if offset > 0 else 0)


def _bound(bucket: int, num_exact: int, per_side: int, max_distance: int) -> float:
    """The smallest distance that falls into a bucket of one side."""
    if bucket <= num_exact:
        return bucket
    return float(
        num_exact * (max_distance / num_exact) ** ((bucket - num_exact) / (per_side - num_exact))
    )


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention of one head, (L, H) each, with `bias` (L, L) added to the scores."""
    rows = []
    for i in range(len(query)):
        scores = [float(query[i] @ key[j]) * scale + float(bias[i, j]) for j in range(len(key))]
        weights = [math.exp(score - max(scores)) for score in scores]
        row = sum(weight * value[j] for j, weight in enumerate(weights))
        rows.append(torch.as_tensor(row) / sum(weights))
    return torch.stack(rows)
