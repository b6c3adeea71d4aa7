"""Fixed windows of segments, which networks are measured on (VATT appendix A.3).

A window lies in the middle, or several are spread over a segment and its picture. A segment is read
once for all networks, whatever each of them looks at.
"""

import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from vatt.core.batch import Batch, LabelledBatch
from vatt.loading.augmentation import spread_crops, to_unit
from vatt.loading.clips import ClipReader, Window
from vatt.loading.labelled import LabelledSplit
from vatt.loading.loader import load_batches
from vatt.loading.tasks import TaskInput
from vatt.loading.windows import View

MIDDLE = 0.5


@dataclass(frozen=True)
class Look:
    """How a network looks at a segment."""

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

    `segments` are a `LabelledSplit`, or `iloc` of rows of the index.
    """

    def __init__(self, reader: ClipReader, segments: Any, looks: Sequence[Look]) -> None:
        self._segments = segments
        self._looks = [(look, reader.resize(look.task_input.stored_clip)) for look in looks]

    def __getitem__(self, number: int) -> list[Views]:
        """Return the views of a segment by look; raise ShardError if its shard is damaged."""
        segment = self._segments[number]
        decoded: dict[Hashable, Tensor] = {}  # for one look, and may serve another
        views = []
        for look, reader in self._looks:
            last_start = look.task_input.find_last_start(segment)
            windows = [
                _read_window(segment, place * last_start, look, reader, decoded)
                for place in look.places
            ]
            views.append(Views(_join(windows), len(windows)))
        return views


def _read_window(
    segment: Any, start: float, look: Look, reader: ClipReader, decoded: dict[Hashable, Tensor]
) -> Window:
    """Return the signals of a window, each for all of its crops."""
    window, num_crops = {}, 1
    if "video" in look.task_input.modalities:
        start = round(start)
        crops = _read_crops(segment, start, look, reader, decoded)
        window["video"], num_crops = look.task_input.shape_video(crops), len(crops)
    if "audio" in look.task_input.modalities:
        key = (reader.clip.num_samples, start)
        if key not in decoded:
            decoded[key] = reader.read_audio(segment, start)
        window["audio"] = look.task_input.shape_audio(decoded[key]).expand(num_crops, -1)
    if look.has_texts:
        descriptions: list[str] = json.loads(segment.descriptions)
        texts = descriptions[:1] or reader.read_narration(segment, int(start), 1)
        encoded = reader.encode_texts(segment, texts, 1)
        window |= {name: values[None] for name, values in encoded.items()}
    return window


def _read_crops(
    segment: Any, start_frame: int, look: Look, reader: ClipReader, decoded: dict[Hashable, Tensor]
) -> Float[Tensor, "K T H W 3"]:
    """Return the crops of a window in [-1, 1]; one that is grey if there is no picture."""
    num_frames, size_px = reader.clip.num_frames, reader.clip.frame_size_px
    if not segment.has_video:
        return torch.zeros((1, num_frames, size_px, size_px, 3))
    picture_px = (int(segment.height_px), int(segment.width_px))
    scaled_px, boxes = spread_crops(picture_px, size_px, look.num_crops)
    key = (num_frames, start_frame, scaled_px)
    if key not in decoded:
        decoded[key] = reader.read_pictures(segment, start_frame, View(scaled_px))
    crops = [
        decoded[key][:, box.top_px : box.top_px + size_px, box.left_px : box.left_px + size_px]
        for box in boxes
    ]
    return to_unit(torch.stack(crops)).mul_(2).sub_(1)


def _join(parts: Sequence[Window]) -> Window:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def load_views(
    windows: FixedWindows, num_segments: int, batch_size: int, num_workers: int = 0
) -> Iterator[tuple[list[int], list[list[Views]]]]:
    """Yield the numbers of `batch_size` segments and of each its views by look, in order.

    Raises:
        StageError: a worker was killed.
        ShardError: a shard is damaged.
    """
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
        ShardError: a shard is damaged.
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
    """Yield the middle windows of the first `num_segments` segments of a split, in order.

    Raises:
        ShardError: a shard is damaged.
    """
    windows = FixedWindows(reader, split, [Look(task_input, (MIDDLE,))])
    for numbers, clips in load_views(windows, num_segments, batch_size):
        labels = torch.stack([split.mark(number) for number in numbers])
        yield LabelledBatch(_join([views.signals for (views,) in clips]), labels)
