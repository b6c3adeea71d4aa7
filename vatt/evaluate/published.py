"""Numbers of the papers, to stand beside ours: other hardware, other data, never measured here.

VATT: tables 1 to 5 of https://arxiv.org/abs/2104.11178; MIL-NCE and MMV as cited there.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple


class Published(NamedTuple):
    """One number of a paper. task: what was measured. value: a share, or a rank, or d-prime (mean of classes)."""

    data_set: str
    task: str
    model: str
    measure: str
    value: float


CLASSIFIED = (
    ("kinetics400", "video", "VATT-Base", 79.6, 94.9),
    ("kinetics400", "video", "VATT-Medium", 81.1, 95.6),
    ("kinetics400", "video", "VATT-Large", 82.1, 95.5),
    ("kinetics400", "video", "VATT-MA-Medium", 79.9, 94.9),
    ("kinetics400", "video", "VATT from scratch", 26.4, 51.8),
    ("kinetics600", "video", "VATT-Base", 80.5, 95.5),
    ("kinetics600", "video", "VATT-Medium", 82.4, 96.1),
    ("kinetics600", "video", "VATT-Large", 83.6, 96.6),
    ("kinetics600", "video", "VATT-MA-Medium", 80.8, 95.5),
    ("kinetics700", "video", "VATT-Large", 72.7, 90.5),
    ("momentsintime", "video", "VATT-Base", 38.7, 67.5),
    ("momentsintime", "video", "VATT-Medium", 39.5, 68.2),
    ("momentsintime", "video", "VATT-Large", 41.1, 67.7),
    ("momentsintime", "video", "VATT-MA-Medium", 37.8, 65.9),
    ("imagenet", "image", "VATT-Base", 78.7, 93.9),
    ("imagenet", "image", "VATT-Base from scratch", 64.7, 83.9),
)
"""Data set, task, model, top-1 and top-5 in per cent, after fine-tuning."""


def _list_finetuned() -> Iterable[Published]:
    for data_set, task, model, top1, top5 in CLASSIFIED:
        for measure, value in (("accuracy", top1), ("top5", top5)):
            yield Published(data_set, task, model, measure, round(value / 100, 3))
    sounds = {"VATT-Base": (0.394, 0.971, 2.895), "VATT-MA-Medium": (0.393, 0.970, 2.884)}
    for model, numbers in sounds.items():
        for measure, value in zip(("map", "auc", "d_prime"), numbers, strict=True):
            yield Published("audioset", "audio", model, measure, value)


def _list_retrieval() -> Iterable[Published]:
    rows = {
        "MIL-NCE": (51.2, 10, 32.4, 30),
        "MMV": (45.4, 13, 31.1, 38),
        "VATT-MBS": (45.5, 13, 29.7, 49),
        "VATT-MA-Medium": (40.6, 17, 23.6, 67),
    }
    for model, (youcook_r10, youcook_rank, msrvtt_r10, msrvtt_rank) in rows.items():
        yield Published("youcook2", "text_to_video", model, "r10", round(youcook_r10 / 100, 3))
        yield Published("youcook2", "text_to_video", model, "median_rank", youcook_rank)
        yield Published("msrvtt", "text_to_video", model, "r10", round(msrvtt_r10 / 100, 3))
        yield Published("msrvtt", "text_to_video", model, "median_rank", msrvtt_rank)


def _list_linear() -> Iterable[Published]:
    rows = {
        "MIL-NCE": (83.4, 54.8, None),
        "MMV": (91.8, 67.1, 88.9),
        "VATT-Medium, SVM": (89.2, 63.3, 82.5),
        "VATT-Medium, LRC": (89.6, 65.2, 84.7),
        "VATT-MA-Medium, LRC": (84.4, 63.1, 81.2),
    }
    for model, row in rows.items():
        for data_set, value in zip(("ucf101", "hmdb51", "esc50"), row, strict=True):
            if value is not None:
                yield Published(data_set, "linear", model, "accuracy", round(value / 100, 3))


def list_published(sources: Iterable[str], searched: Collection[str]) -> list[Published]:
    """Return the numbers of the data sets that these sources are called after, such as `UCF-101`.

    searched: the sources of the texts of retrieval; those of several, searched as one, compare with
    no published number.
    """
    known = _reduce(sources)
    known_searched = _reduce(searched) if len(searched) == 1 else set()
    rows = [*_list_linear(), *_list_finetuned()]
    return [
        *(row for row in _list_retrieval() if row.data_set in known_searched),
        *(row for row in rows if row.data_set in known),
    ]


def _reduce(names: Iterable[str]) -> set[str]:
    return {re.sub(r"[^a-z0-9]", "", name.lower()) for name in names}
