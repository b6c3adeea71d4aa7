"""Segments with labels: which of a corpus a task can use, and what their classes are.

Only the splits that are asked for are read: who tunes or trains has no way to the test split.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from torch import Tensor

from vatt.corpus.index import open_index
from vatt.corpus.manifest import Split
from vatt.corpus.samples import FIELDS, ROWS_AT_ONCE, Sample
from vatt.loading.tasks import MODALITIES
from vatt.params import TaskName, TaskParams

MAX_NAMED = 5
"""How many of the classes a message names."""


class UnlabelledError(Exception):
    """The corpus has not the labels that a task needs; the message says what it has."""


@dataclasses.dataclass(frozen=True)
class LabelledSplit:
    """The segments of one split that have the modalities and a label of a task."""

    classes: tuple[str, ...]
    rows: pa.Table
    """The columns of `Sample`, sorted by key."""
    labels: Sequence[Sequence[int]]
    """The numbers of the classes of each segment, the best first; training does not know -1."""

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
    """What a task learns from."""

    classes: tuple[str, ...]
    """The labels of the split train, sorted."""
    splits: dict[Split, LabelledSplit]
    notes: tuple[str, ...]
    """Sentences on what is odd about the labels."""


def parse_labels(text: str) -> dict[str, list[str]]:
    """Return the labels of a segment by task, the best first, from its column `labels`."""
    labels: dict[str, list[str]] = json.loads(text)
    return labels


def read_labelled(
    preprocess_dir: Path,
    task_name: TaskName,
    task: TaskParams,
    splits: Sequence[Split],
    classes: Sequence[str] = (),
) -> LabelledCorpus:
    """Read what a task can use of these splits; rows of others are not kept.

    Args:
        preprocess_dir: the corpus.
        task_name: decides which modalities a segment must have.
        task: names the label; if it is not `multi_label`, the best label of a segment counts alone.
        splits: those that are opened.
        classes: known ones, in order; without any, those of the split train, which must be opened.

    Raises:
        StageError: the corpus cannot be read.
        UnlabelledError: there is nothing to learn: no such labels, or fewer than two classes.
    """
    found = {split: _read_split(preprocess_dir, task_name, task, split) for split in splits}
    if not classes:
        classes = sorted({label for labels in found["train"][1] for label in labels})
        if len(classes) < 2:
            raise UnlabelledError(_explain(preprocess_dir, task_name, task.label, classes))
    numbers = {name: number for number, name in enumerate(classes)}
    known: dict[Split, LabelledSplit] = {}
    notes: list[str] = []
    for split, (rows, labels) in found.items():
        numbered = [[numbers.get(name, -1) for name in names] for names in labels]
        known[split] = LabelledSplit(tuple(classes), rows, numbered)
        notes += _find_notes(split, Counter(name for names in labels for name in names), classes)
    return LabelledCorpus(tuple(classes), known, tuple(notes))


def _read_split(
    preprocess_dir: Path, task_name: TaskName, task: TaskParams, split: Split
) -> tuple[pa.Table, list[list[str]]]:
    """Return the usable rows of a split and their labels."""
    columns = [*FIELDS, "split", "labels"]
    index = open_index(preprocess_dir)
    parts: list[pa.RecordBatch] = []
    all_labels: list[list[str]] = []
    for rows in index.iter_batches(ROWS_AT_ONCE, columns=columns):
        usable = pc.equal(rows["split"], split)
        for modality in MODALITIES[task_name]:
            usable = pc.and_(usable, rows[f"has_{modality}"])
        part = rows.filter(usable)
        labels = [
            parse_labels(text.as_py()).get(task.label, [])[: None if task.multi_label else 1]
            for text in part["labels"]
        ]
        parts.append(part.filter(pa.array([bool(names) for names in labels], pa.bool_())))
        all_labels += [names for names in labels if names]
    schema = pa.schema([index.schema_arrow.field(name) for name in columns])
    return pa.Table.from_batches(parts, schema).drop_columns(["split", "labels"]), all_labels


def _explain(preprocess_dir: Path, task_name: TaskName, label: str, classes: Sequence[str]) -> str:
    """Say why there is nothing to learn."""
    nouns = {"video": "a picture", "audio": "sound"}
    needed = " and ".join(nouns[modality] for modality in MODALITIES[task_name])
    if classes:
        return (
            f"the segments of the split train with {needed} have one label of the task "
            f"{label!r} only, {classes[0]!r}: there is nothing to tell apart"
        )
    tasks: set[str] = set()
    for rows in open_index(preprocess_dir).iter_batches(ROWS_AT_ONCE, columns=["split", "labels"]):
        training = rows.filter(pc.equal(rows["split"], "train"))
        tasks |= {task for text in training["labels"] for task in parse_labels(text.as_py())}
    return (
        f"no segment of the split train with {needed} has a label of the task {label!r}; "
        f"tasks with labels there: {', '.join(sorted(tasks)) or 'none'}"
    )


def _find_notes(split: Split, counts: Counter[str], classes: Sequence[str]) -> list[str]:
    """Return what is odd about the labels of a split."""
    if not counts:
        return [f"the split {split} has no segment to measure with"]
    rare = [name for name in classes if counts[name] == 1 and split == "train"]
    missing = [name for name in classes if not counts[name] and split != "train"]
    unknown = sorted(set(counts) - set(classes))
    notes = {
        "classes with one segment in the split train": rare,
        f"classes without a segment in the split {split}": missing,
        f"labels in the split {split} that the split train has not, which count as wrong": unknown,
    }
    more = {note: f" and {len(names) - MAX_NAMED} more" for note, names in notes.items()}
    return [
        f"{note}: {', '.join(names[:MAX_NAMED])}{more[note] if len(names) > MAX_NAMED else ''}"
        for note, names in notes.items()
        if names
    ]


def count_classes(split: LabelledSplit) -> list[int]:
    """Return how many segments have each class."""
    counts = Counter(label for labels in split.labels for label in labels)
    return [counts[number] for number in range(len(split.classes))]
