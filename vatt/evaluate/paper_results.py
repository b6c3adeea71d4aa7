"""Numbers of the papers (paper_results.yaml), to stand beside ours: other hardware, other data."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import yaml


class Published(NamedTuple):
    """One number of a paper."""

    data_set: str
    task: str
    """What was measured: text_to_video, linear, or what was fine-tuned."""
    model: str
    measure: str
    value: float
    """A share, a rank, or a d-prime (the mean of the classes)."""


def list_published(sources: Iterable[str], searched: Collection[str]) -> list[Published]:
    """Return the numbers of the data sets that these sources are called after, such as `UCF-101`.

    `searched` are the sources of the texts of retrieval; those of several, searched as one, compare
    with no published number.
    """
    known, known_searched = _reduce(sources), _reduce(searched) if len(searched) == 1 else set()
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return [
        row
        for row in map(Published._make, yaml.safe_load(text))
        if row.data_set in (known_searched if row.task == "text_to_video" else known)
    ]


def _reduce(names: Iterable[str]) -> set[str]:
    return {re.sub(r"[^a-z0-9]", "", name.lower()) for name in names}
