"""Clips to learn from and to be measured on: by their splits, or by the official folds of a data set.

A clip whose labels of the task `fold` are "1:train" and "2:test" is learnt from in fold 1 and
measured on in fold 2, whatever its split is.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vatt.data.manifest import FOLD_TASK
from vatt.evaluation.linear.probe import Fold, Labelled
from vatt.evaluation.reading.clips import Clips, Sample

MODALITIES: Mapping[str, tuple[str, ...]] = {
    "video": ("video",),
    "audio": ("audio",),
    "audio_visual": ("video", "audio"),
}
"""What is read: features of one modality, or of both side by side."""
NOTHING = Labelled(np.zeros((0, 1, 1)), [], [])


class Seen(NamedTuple):
    """The clips of a split, and what a network makes of their windows by modality."""

    clips: Clips
    features: Mapping[str, Float[np.ndarray, "N W D"]]


def build_folds(
    task: str, modality: str, splits: Mapping[str, Seen], *, by_split: bool = False
) -> list[Fold]:
    """Return the official folds of a task, or the splits where it has none or `by_split`.

    `splits` are train, validation and test.
    """
    parts = [splits[name] for name in ("train", "validation", "test")]
    marks = {
        mark
        for clips, _ in parts
        for labels in clips.labels
        if task in labels
        for mark in labels.get(FOLD_TASK, ())
    }
    # A fold without test clips, of a data set that is not whole, is no fold.
    names = sorted(mark.removesuffix(":test") for mark in marks if mark.endswith(":test"))
    if by_split or not names:
        train, validation, test = parts
        return [
            Fold(
                _take_clips(train, task, modality),
                _take_samples(validation, task, modality),
                _take_samples(test, task, modality),
            )
        ]
    return [_build_fold(name, parts, task, modality) for name in names]


def _build_fold(name: str, parts: Sequence[Seen], task: str, modality: str) -> Fold:
    train = [_take_clips(part, task, modality, f"{name}:train") for part in parts]
    test = [_take_samples(part, task, modality, f"{name}:test") for part in parts]
    return Fold(_join(train), NOTHING, _join(test))


def _take_clips(part: Seen, task: str, modality: str, mark: str | None = None) -> Labelled:
    """Return all clips with labels, each by its middle window."""
    samples = [[number] for sample in _find(part, task, modality, mark) for number in sample]
    if not samples:
        return NOTHING
    rows = [number for sample in samples for number in sample]
    values = [part.clips.see_middle(part.features[name])[rows] for name in MODALITIES[modality]]
    return _label(np.concatenate(values, axis=-1)[:, None], samples, part.clips, task)


def _take_samples(part: Seen, task: str, modality: str, mark: str | None = None) -> Labelled:
    """Return all samples with labels, by the windows that are spread over them."""
    samples = _find(part, task, modality, mark)
    if not samples:
        return NOTHING
    values = [part.clips.see_samples(part.features[name], samples) for name in MODALITIES[modality]]
    return _label(np.concatenate(values, axis=-1), samples, part.clips, task)


def _find(part: Seen, task: str, modality: str, mark: str | None) -> list[Sample]:
    return [
        sample
        for sample in part.clips.find_labelled(task, MODALITIES[modality])
        if mark is None or mark in part.clips.labels[sample[0]].get(FOLD_TASK, ())
    ]


def _label(
    features: Float[np.ndarray, "N W D"], samples: Sequence[Sample], clips: Clips, task: str
) -> Labelled:
    firsts = [sample[0] for sample in samples]
    return Labelled(
        features,
        [clips.labels[number][task] for number in firsts],
        [clips.videos[number] for number in firsts],
    )


def _join(parts: Sequence[Labelled]) -> Labelled:
    filled = [part for part in parts if part.labels]
    if not filled:
        return NOTHING
    return Labelled(
        np.concatenate([part.features for part in filled]),
        [labels for part in filled for labels in part.labels],
        [video for part in filled for video in part.videos],
    )
