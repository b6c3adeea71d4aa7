"""Batches for training and for evaluation.

The order of training and everything random in it depend on the seed and the step only: not on the
number of ranks or workers, nor on where a run was resumed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from vatt.core.batch import Batch
from vatt.core.errors import StageError
from vatt.corpus.samples import SampleTable
from vatt.corpus.shards import Shards
from vatt.loading.augmentation import (
    View,
    add_noise,
    centre_view,
    draw_view,
    jitter_colour,
)
from vatt.loading.clips import Clip, ClipReader, collate
from vatt.loading.colour import load_compiled
from vatt.loading.order import SAMPLE_STREAM, Share, TrainingOrder, weigh
from vatt.params import ClipParams

AnyBatch = TypeVar("AnyBatch")
"""What is made of the items of a batch."""


@dataclass(frozen=True)
class LoaderOptions:
    """Where samples of training come from, how often and by how many processes."""

    num_workers: int = 0
    source_weights: Mapping[str, float] | None = None
    """See `weigh`."""
    shards: Shards | None = None
    """None: the folder `shards` of the corpus."""


class StepBatches:
    """What DataLoader takes for a batch sampler: the (epoch, sample) pairs of each step."""

    def __init__(self, order: TrainingOrder, shares: Sequence[Share]) -> None:
        self._order = order
        self._shares = shares

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._order.batches(self._shares)

    def __len__(self) -> int:
        return max(0, self._order.num_steps - self._order.start_step)


class TrainingClips(Dataset[Clip]):
    """Augmented random windows of the segments that can be learnt from; items are (epoch, sample)."""

    def __init__(self, reader: ClipReader, table: SampleTable, seed: int) -> None:
        self._reader = reader
        self._table = table
        self._seed = seed

    def __getitem__(self, item: tuple[int, int]) -> Clip:
        """Return the window of a sample in an epoch.

        Raises:
            ShardError: the shard is damaged.
        """
        epoch, sample = item
        reader, clip, augment = self._reader, self._reader.clip, self._reader.clip.augment
        segment = self._table[sample]
        rng = np.random.default_rng([SAMPLE_STREAM, self._seed, epoch, sample])
        start_frame = int(rng.integers(max(0, segment.num_frames - clip.num_frames) + 1))
        size_px = (segment.height_px, segment.width_px)
        view = draw_view(size_px, clip.frame_size_px, augment, rng)
        video = jitter_colour(reader.read_pictures(segment, start_frame, view), augment, rng)
        audio = add_noise(reader.read_audio(segment, start_frame), augment, rng)
        texts = reader.read_narration(segment, start_frame, clip.num_candidates)
        text, text_mask = reader.encode_texts(texts, clip.num_candidates)
        return Clip(video, audio, text, torch.tensor(segment.has_audio), text_mask)


def open_pretraining_loader(
    preprocess_dir: Path, clip: ClipParams, order: TrainingOrder, options: LoaderOptions
) -> Iterator[Batch]:
    """Return the batches of a rank from `order.start_step` on.

    Raises:
        StageError: the corpus cannot be read, nothing in it can be learnt from, or the weights do
            not fit it; while iterating: a worker was killed.
        ShardError: while iterating: a shard is damaged.
    """
    table = SampleTable(preprocess_dir)
    shares = weigh(table.sizes, options.source_weights)
    clips = TrainingClips(ClipReader(preprocess_dir, clip, options.shards), table, order.seed)
    return load_batches(clips, StepBatches(order, shares), collate, options.num_workers)


class EvaluationWindows(Dataset[list[Clip]]):
    """For each segment of a split, windows that are evenly spaced over it, the middle of the picture.

    One window is the middle one.
    """

    def __init__(self, reader: ClipReader, split: str, num_windows: int) -> None:
        self.rows = reader.read_rows(split)
        self._reader = reader
        self._num_windows = num_windows

    def __getitem__(self, sample: int) -> list[Clip]:
        """Return the windows of a segment.

        Raises:
            ShardError: the shard is damaged.
        """
        clip, segment = self._reader.clip, self.rows.iloc[sample]
        last_start = max(0, segment.num_frames - clip.num_frames)
        places = np.linspace(0, 1, self._num_windows) if self._num_windows > 1 else np.array([0.5])
        starts = (places * last_start).round().astype(int).tolist()
        size_px = (int(segment.height_px), int(segment.width_px))
        view = centre_view(size_px, clip.frame_size_px)
        return [self._read(segment, start, view) for start in starts]

    def _read(self, segment: Any, start_frame: int, view: View) -> Clip:
        reader = self._reader
        text, text_mask = reader.encode_texts(reader.read_text(segment, start_frame), 1)
        video = reader.read_video(segment, start_frame, view).mul_(2).sub_(1)
        audio = reader.read_audio(segment, start_frame)
        return Clip(video, audio, text, torch.tensor(bool(segment.has_audio)), text_mask)


def open_evaluation_loader(
    reader: ClipReader,
    split: str,
    num_windows: int,
    batch_size: int,
    num_workers: int = 0,
) -> Iterator[tuple[pd.DataFrame, Batch]]:
    """Yield the rows of `batch_size` segments of a split and their windows, in the order of the index.

    The batch holds `num_windows` windows of the first segment, then those of the second, ... Nothing
    is random. Its text (P = 1) is the first annotated description, or else the nearest caption. A
    segment without a picture has grey ones: see `has_video` in the rows.

    Raises:
        StageError: the corpus cannot be read.
        ShardError: a shard is damaged.
    """
    windows = EvaluationWindows(reader, split, num_windows)
    samples = [
        list(range(first, min(first + batch_size, len(windows.rows))))
        for first in range(0, len(windows.rows), batch_size)
    ]
    batches = load_batches(windows, samples, _collate_windows, num_workers)
    for batch_samples, batch in zip(samples, batches, strict=True):
        yield windows.rows.iloc[batch_samples], batch


def _collate_windows(segments: list[list[Clip]]) -> Batch:
    return collate([clip for windows in segments for clip in windows])


def load_batches(
    clips: Dataset[Any],
    batches: Iterable[list[Any]],
    collate_batch: Callable[[list[Any]], AnyBatch],
    num_workers: int,
) -> Iterator[AnyBatch]:
    """Decode the items of each batch, in order, in pinned memory where there is a GPU.

    The workers live until the last batch, over all epochs, and are ahead by two batches each.
    """
    if num_workers:
        load_compiled()
    loader = DataLoader(
        clips,
        batch_sampler=batches,
        collate_fn=collate_batch,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it would draw from the global one, that of the training
    )
    return _name_failures(iter(loader))


def _name_failures(batches: Iterator[AnyBatch]) -> Iterator[AnyBatch]:
    """Tell what failed in a worker without its traceback, which torch puts into the message."""
    try:
        yield from batches
    except StageError as error:
        kind = type(error)
        _, _, message = str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")
        raise kind(message.rstrip()) from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise StageError(
            f"a process that decodes clips died: {error}; the system kills one when memory runs out: "
            "launch.loader_workers = fewer need less"
        ) from error
