"""Batches of training: augmented random windows, decoded by processes of their own.

The order of training and everything random in it depend on the seed and the step only: not on the
number of ranks or workers, nor on where a run was resumed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vatt.core.batch import Batch, LabelledBatch
from vatt.core.errors import StageError
from vatt.corpus.samples import SampleTable
from vatt.loading.augmentation import add_noise, draw_view, jitter_colour
from vatt.loading.clips import ClipReader, Place, Window
from vatt.loading.colour import load_compiled
from vatt.loading.labelled import LabelledSplit
from vatt.loading.order import SAMPLE_STREAM, Share, TrainingOrder, weigh
from vatt.loading.tasks import TaskInput

AnyBatch = TypeVar("AnyBatch")
"""The batch that is made of some items."""


class TrainingWindows(Dataset[Window]):
    """Augmented random windows of the samples of a corpus; an item is an (epoch, sample) pair.

    A window of a labelled segment comes with its `labels`, any other with the narration around it.
    """

    def __init__(
        self,
        reader: ClipReader,
        task_input: TaskInput,
        samples: SampleTable | LabelledSplit,
        seed: int,
    ) -> None:
        self._reader = reader.resize(task_input.stored_clip)
        self._input, self._samples, self._seed = task_input, samples, seed

    def __getitem__(self, item: tuple[int, int]) -> Window:
        """Return the window of a sample in an epoch; raise ShardError if its shard is damaged."""
        epoch, number = item
        reader, clip, segment = self._reader, self._reader.clip, self._samples[number]
        rng = np.random.default_rng([SAMPLE_STREAM, self._seed, epoch, number])
        last_start = self._input.find_last_start(segment)
        window: Window = {}
        if "video" in self._input.modalities:
            start: Place = int(rng.integers(int(last_start) + 1))
            size_px = (segment.height_px, segment.width_px)
            view = draw_view(size_px, clip.frame_size_px, clip.augment, rng)
            pictures = reader.read_pictures(segment, int(start), view)
            window["video"] = self._input.shape_video(jitter_colour(pictures, clip.augment, rng))
        else:
            start = rng.uniform(0, last_start)
        if "audio" in self._input.modalities:
            audio = add_noise(reader.read_audio(segment, start), clip.augment, rng)
            window["audio"] = self._input.shape_audio(audio)
        if isinstance(self._samples, LabelledSplit):
            return window | {"labels": self._samples.mark(number)}
        texts = reader.read_narration(segment, int(start), clip.num_candidates)
        return window | reader.encode_texts(segment, texts, clip.num_candidates)


def open_pretraining_loader(
    reader: ClipReader,
    order: TrainingOrder,
    source_weights: Mapping[str, float] | None = None,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Return the batches of a rank from `order.start_step` on; see `weigh` for the weights.

    Raises:
        StageError: the corpus cannot be read, nothing in it can be learnt from, or the weights do
            not fit it; while iterating: a worker was killed.
        ShardError: while iterating: a shard is damaged.
    """
    table = SampleTable(reader.preprocess_dir)
    shares = weigh(table.sizes, source_weights)
    windows = TrainingWindows(reader, TaskInput("audio_visual", reader.clip), table, order.seed)
    return load_batches(windows, order.batches(shares), _collate, num_workers)


def open_labelled_loader(
    reader: ClipReader,
    task_input: TaskInput,
    split: LabelledSplit,
    order: TrainingOrder,
    num_workers: int = 0,
) -> Iterator[LabelledBatch]:
    """Return the batches of a rank from `order.start_step` on; all samples are equally frequent.

    Raises:
        StageError: while iterating: a worker was killed.
        ShardError: while iterating: a shard is damaged.
    """
    windows = TrainingWindows(reader, task_input, split, order.seed)
    batches = order.batches([Share(0, len(split))])
    return load_batches(windows, batches, _collate_labelled, num_workers)


def _collate(windows: Sequence[Window]) -> Batch:
    return Batch(**_stack(windows))


def _collate_labelled(windows: Sequence[Window]) -> LabelledBatch:
    signals = _stack(windows)
    return LabelledBatch(labels=signals.pop("labels"), signals=signals)


def _stack(windows: Sequence[Window]) -> Window:
    return {name: torch.stack([window[name] for window in windows]) for name in windows[0]}


def load_batches(
    windows: Dataset[Any],
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
        windows,
        batch_sampler=batches,
        collate_fn=collate_batch,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it would draw from the global one, that of the training
    )
    return _name_failures(iter(loader))


def _name_failures(batches: Iterator[AnyBatch]) -> Iterator[AnyBatch]:
    """Raise what failed in a worker without its traceback, which torch puts into the message."""
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
            f"a process that decodes clips died: {error}; the system kills one when memory runs "
            "out: launch.loader_workers = fewer need less"
        ) from error
