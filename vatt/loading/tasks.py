"""What a task sees and hears of a segment, which segments it can use, and what their classes are.

Only the splits that are asked for are read: who tunes or trains has no way to the test split. The
tasks are those of VATT appendix A; the audio-visual one is ours.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from torch import Tensor

from vatt.corpus.index import open_index
from vatt.corpus.manifest import Split
from vatt.corpus.samples import FIELDS, ROWS_AT_ONCE, Sample
from vatt.params import AUDIO_RATE_HZ, ClipParams, TaskName, TaskParams

Modality = Literal["video", "audio"]
MODALITIES: dict[TaskName, tuple[Modality, ...]] = {
    "video": ("video",),
    "audio": ("audio",),
    "image": ("video",),
    "audio_visual": ("video", "audio"),
}
"""What a segment must have for a task."""
MAX_NAMED = 5
"""How many of the classes a message names."""


@dataclass(frozen=True)
class TaskInput:
    """The window of a segment that the network of a task takes; pre-training is `audio_visual`."""

    task: TaskName
    clip: ClipParams
    """Its sizes as the network takes them, but `num_samples` is counted at 48 kHz."""
    audio_stride: int = 1
    """The network hears the first of every so many samples."""
    frame_stride: int = 1
    """The network sees the first of every so many stored frames."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the network takes."""
        return MODALITIES[self.task]

    @property
    def stored_clip(self) -> ClipParams:
        """The window to read from the corpus: an image is one frame, which is repeated later."""
        num_frames = 1 if self.task == "image" else self.clip.num_frames * self.frame_stride
        return self.clip.model_copy(update={"num_frames": num_frames})

    def find_last_start(self, segment: Any) -> float:
        """Return the last frame that a window may begin at; 0 where the segment is shorter.

        Sound alone may also begin between two frames.
        """
        num_frames: float = self.stored_clip.num_frames
        if self.task == "audio":
            num_frames = self.clip.num_samples / AUDIO_RATE_HZ * segment.frame_rate_hz
        last: float = segment.num_frames - num_frames
        return max(0.0, last)

    def shape_video(self, video: Float[Tensor, "*K _ H W 3"]) -> Float[Tensor, "*K T H W 3"]:
        """Return stored pictures as the network sees them: an image is repeated."""
        video = video[..., :: self.frame_stride, :, :, :]
        return video.expand(*video.shape[:-4], self.clip.num_frames, *video.shape[-3:])

    def shape_audio(self, audio: Float[Tensor, " S"]) -> Float[Tensor, " R"]:
        """Return sound at 48 kHz as the network hears it.

        As in the original, nothing filters out what the lower sample rate cannot hold.
        """
        return audio[:: self.audio_stride].contiguous()


class UnlabelledError(Exception):
    """The corpus has not the labels that a task needs; the message says what it has."""


@dataclass(frozen=True)
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
        return Sample(**self.rows.slice(number, 1).to_pylist()[0])

    def mark(self, number: int) -> Float[Tensor, " C"]:
        """Return 1 for each class that holds of a segment, else 0."""
        marks = torch.zeros(len(self.classes))
        marks[[label for label in self.labels[number] if label >= 0]] = 1.0
        return marks

    def count_classes(self) -> dict[str, int]:
        """Return how many segments have each class."""
        counts = Counter(label for labels in self.labels for label in labels)
        return {name: counts[number] for number, name in enumerate(self.classes)}


@dataclass(frozen=True)
class LabelledCorpus:
    """What a task learns from."""

    classes: tuple[str, ...]
    """The labels of the split train, sorted."""
    splits: dict[Split, LabelledSplit]
    notes: tuple[str, ...]
    """Sentences on what is odd about the labels."""


def read_labelled(
    preprocess_dir: Path,
    task_name: TaskName,
    task: TaskParams,
    splits: Sequence[Split],
    classes: Sequence[str] = (),
) -> LabelledCorpus:
    """Read what a task can use of these splits of a corpus; rows of others are not kept.

    `task` names the label; if it is not `multi_label`, the best label of a segment counts alone.
    Without known `classes`, they are the labels of the split train, which must be among `splits`.

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
    # In parts: the index of HowTo100M, read at once, would fill the memory of a node.
    for rows in index.iter_batches(ROWS_AT_ONCE, columns=columns):
        usable = pc.equal(rows["split"], split)
        for modality in MODALITIES[task_name]:
            usable = pc.and_(usable, rows[f"has_{modality}"])
        part = rows.filter(usable)
        labels: list[list[str]] = [
            json.loads(text.as_py()).get(task.label, [])[: None if task.multi_label else 1]
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
        tasks.update(task for text in training["labels"] for task in json.loads(text.as_py()))
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
    return [
        f"{note}: {', '.join(names[:MAX_NAMED])}"
        + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
        for note, names in notes.items()
        if names
    ]
