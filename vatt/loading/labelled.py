"""Segments with labels: which of a corpus a task can use, and what their classes are.

Only the splits that are asked for are read: who tunes or trains has no way to the test split.

Batches with labels: what fine-tuning sees and hears of a segment (VATT appendix A.2).

As in pre-training, the order and everything random depend on the seed and the step only.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from vatt.core.batch import LabelledBatch
from vatt.corpus.index import open_index
from vatt.corpus.samples import FIELDS, ROWS_AT_ONCE, Sample
from vatt.corpus.shards import Shards
from vatt.loading.augmentation import add_noise, centre_view, draw_view, jitter_colour
from vatt.loading.clips import ClipReader, Place
from vatt.loading.loader import StepBatches, load_batches
from vatt.loading.order import SAMPLE_STREAM, Share, TrainingOrder
from vatt.params import AUDIO_RATE_HZ, ClipParams, TaskName

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


MODALITIES: dict[TaskName, tuple[Modality, ...]] = {
    "video": ("video",),
    "audio": ("audio",),
    "image": ("video",),
    "audio_visual": ("video", "audio"),
}
"""What a segment must have for a task."""


@dataclass(frozen=True)
class TaskInput:
    """What the network of a task gets of a segment.

    clip: its size; sound is read at 48 kHz, `clip.num_samples` of it. audio_stride: every so many
    samples one is heard. An image is one frame, repeated `clip.num_frames` times.
    """

    task: TaskName
    clip: ClipParams
    audio_stride: int = 1

    def open_reader(self, preprocess_dir: Path, shards: Shards | None = None) -> ClipReader:
        """Open a corpus for windows of this task."""
        num_frames = 1 if self.task == "image" else self.clip.num_frames
        clip = self.clip.model_copy(update={"num_frames": num_frames})
        return ClipReader(preprocess_dir, clip, shards)

    def find_last_start(self, segment: Sample) -> float:
        """Return the last frame that a window may begin at; 0 where a segment is shorter."""
        num_frames: Place = 1 if self.task == "image" else self.clip.num_frames
        if self.task == "audio":
            num_frames = self.clip.num_samples / AUDIO_RATE_HZ * segment.frame_rate_hz
        return max(0.0, segment.num_frames - num_frames)

    def shape_video(self, video: Float[Tensor, "_ H W 3"]) -> Float[Tensor, "T H W 3"]:
        """Return pictures in [-1, 1] as the network sees them: an image is repeated."""
        return video.expand(self.clip.num_frames, -1, -1, -1)

    def shape_audio(self, audio: Float[Tensor, " S"]) -> Float[Tensor, " R"]:
        """Return sound at 48 kHz as the network hears it.

        As in the original, nothing filters out what the lower sample rate cannot hold.
        """
        return audio[:: self.audio_stride].contiguous()


class Example(NamedTuple):
    """One window with its labels."""

    signals: dict[str, Tensor]
    labels: Float[Tensor, " C"]


class LabelledClips(Dataset[Example]):
    """Augmented random windows of segments with labels; items are (epoch, sample)."""

    def __init__(
        self, reader: ClipReader, split: LabelledSplit, wanted: TaskInput, seed: int
    ) -> None:
        self._reader, self._split, self._input, self._seed = reader, split, wanted, seed

    def __getitem__(self, item: tuple[int, int]) -> Example:
        """Return the window of a sample in an epoch.

        Raises:
            ShardError: the shard is damaged.
        """
        epoch, number = item
        reader, segment = self._reader, self._split[number]
        augment, modalities = self._input.clip.augment, MODALITIES[self._input.task]
        rng = np.random.default_rng([SAMPLE_STREAM, self._seed, epoch, number])
        last_start = self._input.find_last_start(segment)
        signals = {}
        if "video" in modalities:
            start: Place = int(rng.integers(int(last_start) + 1))
            size_px = (segment.height_px, segment.width_px)
            view = draw_view(size_px, reader.clip.frame_size_px, augment, rng)
            pictures = reader.read_pictures(segment, int(start), view)
            signals["video"] = self._input.shape_video(jitter_colour(pictures, augment, rng))
        else:
            start = rng.uniform(0, last_start)
        if "audio" in modalities:
            audio = add_noise(reader.read_audio(segment, start), augment, rng)
            signals["audio"] = self._input.shape_audio(audio)
        return Example(signals, self._split.mark(number))


class MiddleClips(Dataset[Example]):
    """The middle window of each segment, the middle of its picture; nothing is random."""

    def __init__(self, reader: ClipReader, split: LabelledSplit, wanted: TaskInput) -> None:
        self._reader, self._split, self._input = reader, split, wanted

    def __getitem__(self, number: int) -> Example:
        """Return the window of a segment.

        Raises:
            ShardError: the shard is damaged.
        """
        reader, segment = self._reader, self._split[number]
        start: Place = self._input.find_last_start(segment) / 2
        signals = {}
        if "video" in MODALITIES[self._input.task]:
            start = round(start)
            size_px = (segment.height_px, segment.width_px)
            view = centre_view(size_px, reader.clip.frame_size_px)
            video = reader.read_video(segment, start, view).mul_(2).sub_(1)
            signals["video"] = self._input.shape_video(video)
        if "audio" in MODALITIES[self._input.task]:
            signals["audio"] = self._input.shape_audio(reader.read_audio(segment, start))
        return Example(signals, self._split.mark(number))


def open_labelled_loader(
    clips: LabelledClips, num_samples: int, order: TrainingOrder, num_workers: int
) -> Iterator[LabelledBatch]:
    """Return the batches of a rank from `order.start_step` on; every sample is drawn equally often.

    Raises:
        StageError: while iterating: a worker was killed.
        ShardError: while iterating: a shard is damaged.
    """
    batches = StepBatches(order, [Share(0, num_samples)])
    return load_batches(clips, batches, collate_examples, num_workers)


def open_middle_loader(
    clips: MiddleClips, num_samples: int, batch_size: int, num_workers: int = 0
) -> Iterator[LabelledBatch]:
    """Yield the first `num_samples` segments of a split, in order.

    Raises:
        StageError: a worker was killed.
        ShardError: a shard is damaged.
    """
    numbers = list(range(num_samples))
    batches = [numbers[first : first + batch_size] for first in numbers[::batch_size]]
    return load_batches(clips, batches, collate_examples, num_workers)


def collate_examples(examples: list[Example]) -> LabelledBatch:
    """Stack windows to a batch."""
    names = examples[0].signals
    signals = {name: torch.stack([example.signals[name] for example in examples]) for name in names}
    return LabelledBatch(signals, torch.stack([example.labels for example in examples]))
