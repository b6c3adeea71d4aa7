"""Batches for training and for evaluation.

The order of training and everything random in it depend on the seed and the step only: not on the
number of ranks or workers, nor on where a run was resumed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from vatt.batch import Batch
from vatt.data.augment import View, add_noise, centre_view, draw_view, jitter_colour
from vatt.data.clips import Clip, ClipReader, collate
from vatt.params import ClipParams, StageError

# The first number of a seed tells what it is for.
ORDER_STREAM = 1
SAMPLE_STREAM = 2


@dataclass(frozen=True)
class TrainingOrder:
    """Which clips a rank gets in which step."""

    seed: int
    batch_size: int
    """Over all ranks."""
    start_step: int
    num_steps: int
    """Of the whole run: the last step is num_steps - 1."""
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise ValueError(f"{self.batch_size} clips cannot be shared by {self.world_size} ranks")

    def batches(self, num_samples: int) -> Iterator[list[tuple[int, int]]]:
        """Yield for each step the (epoch, sample) pairs of this rank.

        A step takes the next `batch_size` places of an endless row of epochs, each a permutation of
        all samples, and a rank its share of them.
        """
        size = self.batch_size // self.world_size
        epoch, permutation = -1, np.zeros(0, np.int64)
        for step in range(self.start_step, self.num_steps):
            first = step * self.batch_size + self.rank * size
            batch = []
            for place in range(first, first + size):
                if place // num_samples != epoch:
                    epoch = place // num_samples
                    rng = np.random.default_rng([ORDER_STREAM, self.seed, epoch])
                    permutation = rng.permutation(num_samples)
                batch.append((epoch, int(permutation[place % num_samples])))
            yield batch


class _Batches:
    """What DataLoader takes for a batch sampler."""

    def __init__(self, order: TrainingOrder, num_samples: int) -> None:
        self._order = order
        self._num_samples = num_samples

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._order.batches(self._num_samples)

    def __len__(self) -> int:
        return max(0, self._order.num_steps - self._order.start_step)


class TrainingClips(Dataset[Clip]):
    """Augmented random windows of the segments that can be learnt from; items are (epoch, sample)."""

    def __init__(self, reader: ClipReader, seed: int) -> None:
        index = reader.index
        usable = (
            (index["split"] == "train")
            & index["has_video"]
            & (index["has_audio"] | (index["num_context_captions"] > 0))
        )
        self.rows = np.flatnonzero(usable.to_numpy())
        self._reader = reader
        self._seed = seed

    def __getitem__(self, item: tuple[int, int]) -> Clip:
        """Return the window of a sample in an epoch.

        Raises:
            ShardError: the shard is damaged.
        """
        epoch, sample = item
        reader, clip, augment = self._reader, self._reader.clip, self._reader.clip.augment
        segment = reader.index.iloc[self.rows[sample]]
        rng = np.random.default_rng([SAMPLE_STREAM, self._seed, epoch, sample])
        start_frame = int(rng.integers(max(0, segment.num_frames - clip.num_frames) + 1))
        size_px = (int(segment.height_px), int(segment.width_px))
        view = draw_view(size_px, clip.frame_size_px, augment, rng)
        video = jitter_colour(reader.read_video(segment, start_frame, view), augment, rng)
        audio = add_noise(reader.read_audio(segment, start_frame), augment, rng)
        texts = reader.read_narration(segment, start_frame, clip.num_candidates)
        text, text_mask = reader.encode_texts(texts, clip.num_candidates)
        return Clip(video * 2 - 1, audio, text, torch.tensor(bool(segment.has_audio)), text_mask)


def open_pretraining_loader(
    preprocess_dir: Path, clip: ClipParams, order: TrainingOrder, num_workers: int
) -> Iterable[Batch]:
    """Return the batches of a rank from `order.start_step` on, decoded by `num_workers` processes.

    Raises:
        StageError: the corpus cannot be read, or nothing in it can be learnt from.
        ShardError: while iterating: a shard is damaged.
    """
    clips = TrainingClips(ClipReader(preprocess_dir, clip), order.seed)
    if not len(clips.rows):
        raise StageError(
            f"{preprocess_dir}: no segment of the split train has a picture and sound or captions"
        )
    return _open_loader(clips, _Batches(order, len(clips.rows)), collate, num_workers)


class EvaluationWindows(Dataset[list[Clip]]):
    """For each segment of a split, windows that are evenly spaced over it, the middle of the picture.

    One window is the middle one.
    """

    def __init__(self, reader: ClipReader, split: str, num_windows: int) -> None:
        self.rows = np.flatnonzero((reader.index["split"] == split).to_numpy())
        self.reader = reader
        self._num_windows = num_windows

    def __getitem__(self, sample: int) -> list[Clip]:
        """Return the windows of a segment.

        Raises:
            ShardError: the shard is damaged.
        """
        reader, clip = self.reader, self.reader.clip
        segment = reader.index.iloc[self.rows[sample]]
        last_start = max(0, segment.num_frames - clip.num_frames)
        places = np.linspace(0, 1, self._num_windows) if self._num_windows > 1 else np.array([0.5])
        starts = (places * last_start).round().astype(int).tolist()
        size_px = (int(segment.height_px), int(segment.width_px))
        view = centre_view(size_px, clip.frame_size_px)
        return [self._read(segment, start, view) for start in starts]

    def _read(self, segment: Any, start_frame: int, view: View) -> Clip:
        reader = self.reader
        if isinstance(segment.caption, str):
            texts = [segment.caption]
        else:
            texts = reader.read_narration(segment, start_frame, 1)
        text, text_mask = reader.encode_texts(texts, 1)
        video = reader.read_video(segment, start_frame, view) * 2 - 1
        audio = reader.read_audio(segment, start_frame)
        return Clip(video, audio, text, torch.tensor(bool(segment.has_audio)), text_mask)


def open_evaluation_loader(
    preprocess_dir: Path,
    clip: ClipParams,
    split: str,
    num_windows: int,
    batch_size: int,
    num_workers: int = 0,
) -> Iterator[tuple[pd.DataFrame, Batch]]:
    """Yield the rows of `batch_size` segments of a split and their windows, in the order of the index.

    The batch holds `num_windows` windows of the first segment, then those of the second, ... Nothing
    is random. Its text (P = 1) is the annotated description, or else the nearest caption. A segment
    without a picture has grey ones: see `has_video` in the rows.

    Raises:
        StageError: the corpus cannot be read.
        ShardError: a shard is damaged.
    """
    windows = EvaluationWindows(ClipReader(preprocess_dir, clip), split, num_windows)
    samples = [
        list(range(first, min(first + batch_size, len(windows.rows))))
        for first in range(0, len(windows.rows), batch_size)
    ]
    batches = _open_loader(windows, samples, _collate_windows, num_workers)
    for batch_samples, batch in zip(samples, batches, strict=True):
        yield windows.reader.index.iloc[windows.rows[batch_samples]], batch


def _collate_windows(segments: list[list[Clip]]) -> Batch:
    return collate([clip for windows in segments for clip in windows])


def _open_loader(
    clips: Dataset[Any],
    batches: Iterable[list[Any]],
    collate_batch: Callable[[list[Any]], Batch],
    num_workers: int,
) -> Iterable[Batch]:
    """Decode the items of each batch, in order, in pinned memory where there is a GPU."""
    return DataLoader(
        clips,
        batch_sampler=batches,
        collate_fn=collate_batch,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it would draw from the global one, that of the training
    )
