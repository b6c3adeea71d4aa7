"""Health of contrastive training: alignment and uniformity of embeddings, retrieval, collapse.

Alignment and uniformity are those of Wang and Isola (Understanding contrastive representation
learning through alignment and uniformity on the hypersphere, 2020).
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vatt.batch import Batch, Embeddings
from vatt.train.engine import Engine

COLLAPSED_RANK = 2.0
"""Embeddings that vary in fewer directions have collapsed."""
CHANCE_DEVIATIONS = 3.0
"""Mean ranks this near to chance, in standard deviations of chance, are at chance."""
SPACES = {"va": "video and audio", "vt": "video and text"}


class Pairs(NamedTuple):
    """Clips in one space, of length 1: row i of `video` belongs to row i of `other`."""

    video: Float[Tensor, "N E"]
    other: Float[Tensor, "N E"]


def measure_health(engine: Engine, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the health of all spaces on some clips; every rank must measure the same clips.

    Names end in the space: va or vt. A space with fewer than two pairs is left out.
    """
    spaces = _embed(engine, batches)
    health: dict[str, float] = {}
    for space, pairs in spaces.items():
        if len(pairs.video) > 1:
            health |= {f"{name}_{space}": value for name, value in measure_pairs(pairs).items()}
    return health


def measure_pairs(pairs: Pairs) -> dict[str, float]:
    """Return the health of two or more pairs.

    alignment: mean squared distance in a pair, 0 to 4; 2 where the two have nothing to do with each
    other. uniformity: log of the mean of exp(-2 d^2) over distances d of other clips of the same
    modality, mean of both modalities; 0 where all are one point, -4 where they fill a sphere.
    directions: how many directions the embeddings vary in (exponential of the entropy of the
    singular values of their scatter), the smaller of both modalities. r1: share of videos found
    first by the other modality. rank: mean place of the right video, 0 first to 1 last; 0.5 is
    chance.
    """
    video, other = pairs
    right = (other * video).sum(1, keepdim=True)
    scores = other @ video.T
    is_wrong = ~torch.eye(len(video), dtype=torch.bool, device=video.device)
    better = ((scores > right) & is_wrong).sum(1) + ((scores == right) & is_wrong).sum(1) / 2
    return {
        "alignment": float((video - other).square().sum(1).mean()),
        "uniformity": float((_measure_uniformity(video) + _measure_uniformity(other)) / 2),
        "directions": min(_count_directions(video), _count_directions(other)),
        "r1": float((better < 0.5).float().mean()),
        "rank": float(better.mean() / (len(video) - 1)),
        "pairs": float(len(video)),
    }


def find_collapse(health: Mapping[str, float], *, is_warm: bool) -> list[str]:
    """Return in words what is wrong; retrieval at chance is wrong after the warm-up only."""
    problems = []
    for space, modalities in SPACES.items():
        if f"pairs_{space}" not in health:
            continue
        directions, rank = health[f"directions_{space}"], health[f"rank_{space}"]
        if directions < COLLAPSED_RANK:
            problems.append(
                f"the embeddings of {modalities} have collapsed: they vary in {directions:.1f} directions"
            )
        # The mean of N places, each uniform on [0, 1] by chance.
        deviation = 1 / math.sqrt(12 * health[f"pairs_{space}"])
        if is_warm and rank > 0.5 - CHANCE_DEVIATIONS * deviation:
            problems.append(
                f"retrieval between {modalities} is at chance: mean rank {rank:.2f} of 0 to 1"
            )
    return problems


def _embed(engine: Engine, batches: Iterable[Batch]) -> dict[str, Pairs]:
    """Return the pairs of each space; clips without sound or text are left out there."""
    pairs: dict[str, list[Pairs]] = {space: [] for space in SPACES}
    with engine.evaluating() as objective:
        for batch in batches:
            moved = batch.to(engine.device)
            found: Embeddings = objective.model(moved)  # type: ignore[operator]
            heard, read = moved.audio_mask, moved.text_mask[:, 0]
            pairs["va"].append(Pairs(found.video_va[heard], found.audio_va[heard]))
            pairs["vt"].append(Pairs(found.video_vt[read], found.text_vt[read, 0]))
    return {
        space: Pairs(
            *(functional.normalize(torch.cat(rows).float()) for rows in zip(*parts, strict=True))
        )
        for space, parts in pairs.items()
        if parts
    }


def _measure_uniformity(rows: Float[Tensor, "N E"]) -> Float[Tensor, ""]:
    return functional.pdist(rows).square().mul(-2).exp().mean().log()


def _count_directions(rows: Float[Tensor, "N E"]) -> float:
    values = torch.linalg.svdvals(rows - rows.mean(0))
    if float(values.sum()) < 1e-6 * len(rows):  # all the same
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
