"""Segments with labels: which of a corpus a task can use, and what their classes are.

Only the splits that are asked for are read: who tunes or trains has no way to the test split.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from torch import Tensor

from vatt.data.index import open_index
from vatt.data.loading.samples import FIELDS, ROWS_AT_ONCE, Sample

Split = Literal["train", "validation", "test"]
Modality = Literal["video", "audio"]
MAX_NAMED = 5
"""Of many classes, so many are named in a message."""


class UnlabelledError(Exception):
    """The corpus has not the labels that a task needs; the message says what it has."""


@dataclasses.dataclass(frozen=True)
class LabelledSplit:
    """The segments of one split that have the modalities and a label; `labels[i]` is of segment i.

    Labels are numbers of classes, the best first; -1 is a label that training does not know.
    """

    classes: tuple[str, ...]
    rows: pa.Table
    """The columns of `Sample`, and source, video_id, start_s and end_s, sorted by key."""
    labels: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Sample:
        row = self.rows.slice(number, 1).to_pylist()[0]
        return Sample(**{name: row[name] for name in FIELDS})

    def mark(self, number: int) -> Float[Tensor, " C"]:
        """Return 1 for each class that holds of a segment, else 0."""
        marks = torch.zeros(len(self.classes))
        marks[[label for label in self.labels[number] if label >= 0]] = 1.0
        return marks


@dataclasses.dataclass(frozen=True)
class LabelledCorpus:
    """What a task learns from.

    classes: the labels of the split train, sorted. notes: in words, what a person should know.
    """

    classes: tuple[str, ...]
    splits: dict[Split, LabelledSplit]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a task asks of a segment: labels of this task, all these modalities, one label or many."""

    label: str
    modalities: tuple[Modality, ...]
    multi_label: bool


def parse_labels(text: str) -> dict[str, list[str]]:
    """Return the labels of a segment by task, the best first, from its column `labels`."""
    labels: dict[str, list[str]] = json.loads(text)
    return labels


def read_labelled(
    preprocess_dir: Path, wanted: Wanted, splits: Sequence[Split], classes: Sequence[str] = ()
) -> LabelledCorpus:
    """Read what a task can use of these splits; rows of others are not kept.

    Args:
        preprocess_dir: the corpus.
        wanted: what is asked of a segment; one label of a clip is the one that fits it best.
        splits: those that are opened.
        classes: known ones, in order; none: those of the split train, which must then be opened.

    Raises:
        StageError: the corpus cannot be read.
        UnlabelledError: there is nothing to learn: no such labels, or fewer than two classes.
    """
    found = {split: _read_split(preprocess_dir, wanted, split) for split in splits}
    if not classes:
        classes = sorted({label for labels in found["train"][1] for label in labels})
        if len(classes) < 2:
            raise UnlabelledError(_explain(preprocess_dir, wanted, classes))
    numbers = {name: number for number, name in enumerate(classes)}
    known = {
        split: LabelledSplit(
            tuple(classes), rows, [[numbers.get(name, -1) for name in row] for row in labels]
        )
        for split, (rows, labels) in found.items()
    }
    notes = [
        note
        for split, (_, labels) in found.items()
        for note in _find_notes(split, Counter(name for row in labels for name in row), classes)
    ]
    return LabelledCorpus(tuple(classes), known, tuple(notes))


def _read_split(
    preprocess_dir: Path, wanted: Wanted, split: Split
) -> tuple[pa.Table, list[list[str]]]:
    """Return the usable rows of a split and their labels."""
    columns = [*FIELDS, "source", "video_id", "start_s", "end_s", "split", "labels"]
    index = open_index(preprocess_dir)
    parts: list[pa.RecordBatch] = []
    all_labels: list[list[str]] = []
    for rows in index.iter_batches(ROWS_AT_ONCE, columns=columns):
        usable = pc.equal(rows["split"], split)
        for modality in wanted.modalities:
            usable = pc.and_(usable, rows[f"has_{modality}"])
        part = rows.filter(usable)
        labels = [
            parse_labels(text.as_py()).get(wanted.label, [])[: None if wanted.multi_label else 1]
            for text in part["labels"]
        ]
        parts.append(part.filter(pa.array([bool(row) for row in labels], pa.bool_())))
        all_labels += [row for row in labels if row]
    schema = pa.schema([index.schema_arrow.field(name) for name in columns])
    return pa.Table.from_batches(parts, schema).drop_columns(["split", "labels"]), all_labels


def _explain(preprocess_dir: Path, wanted: Wanted, classes: Sequence[str]) -> str:
    """Say why there is nothing to learn."""
    needed = " and ".join({"video": "a picture", "audio": "sound"}[m] for m in wanted.modalities)
    if classes:
        return (
            f"the segments of the split train with {needed} have one label of the task "
            f"{wanted.label!r} only, {classes[0]!r}: there is nothing to tell apart"
        )
    tasks: set[str] = set()
    for rows in open_index(preprocess_dir).iter_batches(ROWS_AT_ONCE, columns=["split", "labels"]):
        training = rows.filter(pc.equal(rows["split"], "train"))
        tasks |= {task for text in training["labels"] for task in parse_labels(text.as_py())}
    others = ", ".join(sorted(tasks)) or "none"
    return (
        f"no segment of the split train with {needed} has a label of the task {wanted.label!r}; "
        f"tasks with labels there: {others}"
    )


def _find_notes(split: Split, counts: Counter[str], classes: Sequence[str]) -> list[str]:
    """Return what is odd about the labels of a split."""
    if not counts:
        return [f"the split {split} has no segment to measure with"]
    notes = []
    if split == "train":
        rare = [name for name in classes if counts[name] == 1]
        if rare:
            notes.append(f"classes with one segment in the split train: {_name_some(rare)}")
    elif missing := [name for name in classes if not counts[name]]:
        notes.append(f"classes without a segment in the split {split}: {_name_some(missing)}")
    if unknown := sorted(set(counts) - set(classes)):
        notes.append(
            f"labels in the split {split} that the split train has not, which count as wrong: "
            f"{_name_some(unknown)}"
        )
    return notes


def _name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def count_classes(split: LabelledSplit) -> list[int]:
    """Return how many segments have each class."""
    flat = np.array([label for row in split.labels for label in row if label >= 0], dtype=int)
    counts: list[int] = np.bincount(flat, minlength=len(split.classes)).tolist()
    return counts
