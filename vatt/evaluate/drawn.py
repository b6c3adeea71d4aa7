"""The drawn clips that the analyses are made of, and the networks that are looked into."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import numpy as np

from vatt.evaluate.features import Clips
from vatt.evaluate.networks import (
    Arrays,
    Embedder,
    InnerEmbedder,
    InnerLabeller,
    Labeller,
    Observer,
)
from vatt.evaluate.selection import Subset
from vatt.loading.loader import MIDDLE

MAX_CLIPS = 1000
"""As many as the paper's t-SNE of YouCook2 has."""
Name = tuple[str, str]
"""The task, empty for the pre-trained network, and which of its networks."""
Inner = tuple[Clips, Mapping[Name, Arrays]]
"""Drawn clips, and what is inside networks that see them."""


def draw_inner(
    clips: Clips, networks: Mapping[Name, Observer]
) -> tuple[Clips, dict[Name, Observer]]:
    """Return clips drawn from those of a split, with one text each, and who looks into networks.

    Of all `networks` these are the trained one, and the classifiers of video, also from scratch.
    The keys of the clips alone decide which are drawn, and their order.
    """
    keys = clips.rows["key"].tolist()
    chosen = Subset(MAX_CLIPS).choose(Subset(MAX_CLIPS).draw_turns(keys))
    chosen = np.array(sorted(chosen.tolist(), key=keys.__getitem__), dtype=np.int64)
    rows, texts = clips.rows.iloc[chosen], [clips.texts[number][:1] for number in chosen.tolist()]
    content = rows.to_csv(index=False) + json.dumps(texts)
    digest = hashlib.sha256(content.encode()).hexdigest()
    drawn = dataclasses.replace(clips, rows=rows, texts=texts, places=(MIDDLE,), digest=digest)
    inner: dict[Name, Observer] = {}
    for (task, name), network in networks.items():
        if isinstance(network, Embedder) and name == "trained":
            inner[task, name] = InnerEmbedder(network)
        if isinstance(network, Labeller) and task == "video" and name != "untrained":
            inner[task, name] = InnerLabeller(network)
    return drawn, inner
