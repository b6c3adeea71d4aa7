"""Numbers of the papers, to stand beside ours: other hardware, other data, never measured here.

VATT: tables 1 to 5 of https://arxiv.org/abs/2104.11178; MIL-NCE and MMV as cited there.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple


class Published(NamedTuple):
    """One number of a paper."""

    data_set: str
    task: str
    """What was measured: text_to_video, linear, or what was fine-tuned."""
    model: str
    measure: str
    value: float
    """A share, a rank, or a d-prime (the mean of the classes)."""


Models = Mapping[str, tuple[float | None, ...]]
"""The numbers of each model, shares in per cent; None where the paper has none."""
RETRIEVAL: Models = {
    "MIL-NCE": (51.2, 10, 32.4, 30),
    "MMV": (45.4, 13, 31.1, 38),
    "VATT-MBS": (45.5, 13, 29.7, 49),
    "VATT-MA-Medium": (40.6, 17, 23.6, 67),
}
LINEAR: Models = {
    "MIL-NCE": (83.4, 54.8, None),
    "MMV": (91.8, 67.1, 88.9),
    "VATT-Medium, SVM": (89.2, 63.3, 82.5),
    "VATT-Medium, LRC": (89.6, 65.2, 84.7),
    "VATT-MA-Medium, LRC": (84.4, 63.1, 81.2),
}
VIDEO_SETS = ("kinetics400", "kinetics600", "kinetics700", "momentsintime")
VIDEO: Models = {
    "VATT-Base": (79.6, 94.9, 80.5, 95.5, None, None, 38.7, 67.5),
    "VATT-Medium": (81.1, 95.6, 82.4, 96.1, None, None, 39.5, 68.2),
    "VATT-Large": (82.1, 95.5, 83.6, 96.6, 72.7, 90.5, 41.1, 67.7),
    "VATT-MA-Medium": (79.9, 94.9, 80.8, 95.5, None, None, 37.8, 65.9),
    "VATT from scratch": (26.4, 51.8, None, None, None, None, None, None),
}
"""The accuracy and the top-5 on each of VIDEO_SETS."""
IMAGE: Models = {"VATT-Base": (78.7, 93.9), "VATT-Base from scratch": (64.7, 83.9)}
SOUND: Models = {"VATT-Base": (39.4, 97.1, 2.895), "VATT-MA-Medium": (39.3, 97.0, 2.884)}
NO_SHARES = ("median_rank", "d_prime")


def _list_rows(
    task: str, columns: Sequence[tuple[str, str]], models: Models
) -> Iterator[Published]:
    """Yield the numbers of models; `columns` are the data set and the measure of each."""
    for model, values in models.items():
        for (data_set, measure), value in zip(columns, values, strict=True):
            if value is not None:
                shown = value if measure in NO_SHARES else round(value / 100, 3)
                yield Published(data_set, task, model, measure, shown)


def list_published(sources: Iterable[str], searched: Collection[str]) -> list[Published]:
    """Return the numbers of the data sets that these sources are called after, such as `UCF-101`.

    `searched` are the sources of the texts of retrieval; those of several, searched as one, compare
    with no published number.
    """
    measures = ("accuracy", "top5")
    pairs = list(product(("youcook2", "msrvtt"), ("r10", "median_rank")))
    retrieval = _list_rows("text_to_video", pairs, RETRIEVAL)
    linear = [(name, "accuracy") for name in ("ucf101", "hmdb51", "esc50")]
    rows = [*_list_rows("linear", linear, LINEAR)]
    columns = list(product(VIDEO_SETS, measures))
    videos = _list_rows("video", columns, VIDEO)
    rows += sorted(videos, key=lambda row: VIDEO_SETS.index(row.data_set))
    rows += _list_rows("image", [("imagenet", measure) for measure in measures], IMAGE)
    sounds = [("audioset", measure) for measure in ("map", "auc", "d_prime")]
    rows += _list_rows("audio", sounds, SOUND)
    known, known_searched = _reduce(sources), _reduce(searched) if len(searched) == 1 else set()
    return [
        *(row for row in retrieval if row.data_set in known_searched),
        *(row for row in rows if row.data_set in known),
    ]


def _reduce(names: Iterable[str]) -> set[str]:
    return {re.sub(r"[^a-z0-9]", "", name.lower()) for name in names}
