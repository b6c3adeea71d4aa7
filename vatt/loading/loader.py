"""Batches of windows, decoded by processes of their own: random to train on, fixed to measure on.

The order of training and everything random in it depend on the seed and the step only: not on the
number of ranks or workers, nor on where a run was resumed. All that yield batches raise StageError
where a worker was killed, and ShardError where a shard is damaged.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vatt.core.batch import Batch, LabelledBatch
from vatt.core.errors import StageError
from vatt.corpus.samples import SampleTable
from vatt.loading.augmentation import add_noise, draw_view, jitter_colour, spread_crops
from vatt.loading.clips import ClipReader, Place, View, Window, to_signal
from vatt.loading.colour import load_compiled
from vatt.loading.order import SAMPLE_STREAM, TrainingOrder, weigh
from vatt.loading.tasks import LabelledSplit, TaskInput

AnyBatch = TypeVar("AnyBatch")
"""The batch that is made of some items."""
MIDDLE = 0.5


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
        """Return the window of a sample in an epoch."""
        epoch, number = item
        reader, clip, segment = self._reader, self._reader.clip, self._samples[number]
        # A generator of its own, so that a window depends on no other one, nor on who decodes it.
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

    def load(
        self,
        order: TrainingOrder,
        source_weights: Mapping[str, float] | None = None,
        num_workers: int = 0,
    ) -> Iterator[Any]:
        """Return the batches of a rank from `order.start_step` on; see `weigh` for the weights.

        They are a `LabelledBatch` where segments have labels, else a `Batch`.

        Raises:
            StageError: the weights do not fit the corpus.
        """
        samples = self._samples
        sizes = {"": len(samples)} if isinstance(samples, LabelledSplit) else samples.sizes
        batches = order.batches(weigh(sizes, source_weights))
        return load_batches(self, batches, _collate, num_workers)


def _collate(windows: Sequence[Window]) -> Any:
    """Stack windows to a `Batch`, or to a `LabelledBatch` where they have labels."""
    stacked = {name: torch.stack([window[name] for window in windows]) for name in windows[0]}
    labels = stacked.pop("labels", None)
    return Batch(**stacked) if labels is None else LabelledBatch(stacked, labels)


@dataclass(frozen=True)
class Look:
    """How a network looks at a segment that it is measured on."""

    task_input: TaskInput
    places: tuple[float, ...]
    """Where its windows start, from 0, the first possible place of the segment, to 1, the last."""
    num_crops: int = 1
    """Squares along the longer side of a picture; a square picture has one."""
    has_texts: bool = False
    """Whether each window comes with one text and the masks, as in `Batch`."""

    @property
    def num_views(self) -> int:
        """How many views a segment has at most."""
        return len(self.places) * self.num_crops


def spread_places(num_windows: int) -> tuple[float, ...]:
    """Return places of windows that are evenly spaced over a segment; one is in the middle."""
    return tuple(np.linspace(0, 1, num_windows).tolist()) if num_windows > 1 else (MIDDLE,)


class Views(NamedTuple):
    """The views of a segment: W windows with K crops each, all of the first window first."""

    signals: dict[str, Float[Tensor, "V ..."]]
    """RGB and mono in [-1, 1]; grey and silent where the segment has none. The sound of a window is
    repeated for each of its crops."""
    num_windows: int


class FixedWindows(Dataset[list[Views]]):
    """For each segment what each of the `looks` sees of it; nothing is random.

    `segments` are a `LabelledSplit`, or `iloc` of rows of the index. A segment is read once for all
    networks, whatever each of them looks at.
    """

    def __init__(self, reader: ClipReader, segments: Any, looks: Sequence[Look]) -> None:
        self._segments = segments
        self._looks = [(look, reader.resize(look.task_input.stored_clip)) for look in looks]

    def __getitem__(self, number: int) -> list[Views]:
        """Return the views of a segment by look."""
        segment = self._segments[number]
        decoded: dict[Hashable, Tensor] = {}  # for one look, and may serve another
        views = []
        for look, reader in self._looks:
            last_start = look.task_input.find_last_start(segment)
            starts = [place * last_start for place in look.places]
            windows = [_read_window(segment, start, look, reader, decoded) for start in starts]
            views.append(Views(_join(windows), len(windows)))
        return views


def _read_window(
    segment: Any, start: float, look: Look, reader: ClipReader, decoded: dict[Hashable, Tensor]
) -> Window:
    """Return the signals of a window, each for all of its crops, and add what was `decoded`."""
    window, clip, num_crops = {}, reader.clip, 1
    if "video" in look.task_input.modalities:
        start, size_px = round(start), clip.frame_size_px
        crops = torch.zeros((1, clip.num_frames, size_px, size_px, 3))  # grey
        if segment.has_video:
            picture_px = (int(segment.height_px), int(segment.width_px))
            scaled_px, boxes = spread_crops(picture_px, size_px, look.num_crops)
            key: Hashable = (clip.num_frames, start, scaled_px)
            if key not in decoded:
                decoded[key] = reader.read_pictures(segment, start, View(scaled_px))
            whole = decoded[key]
            cut = [whole[:, y : y + size_px, x : x + size_px] for y, x, *_ in boxes]
            crops = to_signal(torch.stack(cut))
        window["video"], num_crops = look.task_input.shape_video(crops), len(crops)
    if "audio" in look.task_input.modalities:
        key = (clip.num_samples, start)
        if key not in decoded:
            decoded[key] = reader.read_audio(segment, start)
        window["audio"] = look.task_input.shape_audio(decoded[key]).expand(num_crops, -1)
    if look.has_texts:
        descriptions: list[str] = json.loads(segment.descriptions)
        texts = descriptions[:1] or reader.read_narration(segment, int(start), 1)
        encoded = reader.encode_texts(segment, texts, 1)
        window |= {name: values[None] for name, values in encoded.items()}
    return window


def _join(parts: Sequence[Window]) -> Window:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def load_views(
    windows: FixedWindows, num_segments: int, batch_size: int, num_workers: int = 0
) -> Iterator[tuple[list[int], list[list[Views]]]]:
    """Yield the numbers of `batch_size` segments and of each its views by look, in order."""
    numbers = list(range(num_segments))
    batches = [numbers[first : first + batch_size] for first in numbers[::batch_size]]
    return zip(batches, load_batches(windows, batches, list, num_workers), strict=True)


def open_validation_loader(
    reader: ClipReader, split: str, batch_size: int
) -> Iterator[tuple[pd.DataFrame, Batch]]:
    """Yield rows of `batch_size` segments of a split and their middle windows, in index order.

    The text (P = 1) is the first annotated description, or else the nearest caption. A segment
    without a picture has grey ones: see `has_video` in the rows.

    Raises:
        StageError: the corpus cannot be read.
    """
    rows = reader.read_rows(split)
    look = Look(TaskInput("audio_visual", reader.clip), (MIDDLE,), has_texts=True)
    windows = FixedWindows(reader, rows.iloc, [look])
    for numbers, clips in load_views(windows, len(rows), batch_size):
        yield rows.iloc[numbers], Batch(**_join([views.signals for (views,) in clips]))


def open_labelled_validation_loader(
    reader: ClipReader,
    task_input: TaskInput,
    split: LabelledSplit,
    num_segments: int,
    batch_size: int,
) -> Iterator[LabelledBatch]:
    """Yield the middle windows of the first `num_segments` segments of a split, in order."""
    windows = FixedWindows(reader, split, [Look(task_input, (MIDDLE,))])
    for numbers, clips in load_views(windows, num_segments, batch_size):
        labels = torch.stack([split.mark(number) for number in numbers])
        yield LabelledBatch(_join([views.signals for (views,) in clips]), labels)


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
    # Workers are forked here and not at the first batch: by then this process may have threads.
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
