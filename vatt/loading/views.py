"""What networks see of a clip at test: windows spread over it, crops of these (VATT appendix A.3).

A clip is read once for all networks, whatever each of them looks at.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from vatt.corpus.index import SHARDS_NAME
from vatt.corpus.shards import LocalShards
from vatt.loading.augmentation import side_views, to_unit
from vatt.loading.clips import ClipReader
from vatt.loading.labelled import MODALITIES, TaskInput
from vatt.loading.loader import load_batches

MIDDLE = 0.5


@dataclass(frozen=True)
class Look:
    """How a network looks at a clip.

    places: where its windows start, from 0, the first possible place of the clip, to 1, the last
    one. num_crops: squares along the longer side of a picture; a square picture has one.
    """

    wanted: TaskInput
    places: tuple[float, ...]
    num_crops: int = 1

    @property
    def num_views(self) -> int:
        """How many views a clip has at most."""
        return len(self.places) * self.num_crops


def spread_places(num_windows: int) -> tuple[float, ...]:
    """Return places of windows that are evenly spaced over a clip; one is in the middle."""
    return tuple(np.linspace(0, 1, num_windows).tolist()) if num_windows > 1 else (MIDDLE,)


class Views(NamedTuple):
    """The views of a clip: W windows with K crops each, all of the first window first.

    RGB and mono in [-1, 1]; grey and silent where the clip has none. The sound of a window is there
    for each of its crops.
    """

    signals: dict[str, Float[Tensor, "V ..."]]
    num_windows: int


class SeenClips(Dataset[list[Views]]):
    """For each segment, a row of `rows`, what each of the `looks` sees of it."""

    def __init__(self, preprocess_dir: Path, rows: pd.DataFrame, looks: Sequence[Look]) -> None:
        self.rows = rows
        self._looks = looks
        shards = LastRead(preprocess_dir / SHARDS_NAME)
        self._readers = [look.wanted.open_reader(preprocess_dir, shards) for look in looks]

    def __getitem__(self, number: int) -> list[Views]:
        """Return the views of a segment for each look.

        Raises:
            ShardError: the shard is damaged.
        """
        clip = _OpenedClip(self.rows.iloc[number], {})
        return [
            _read_views(clip, reader, look)
            for reader, look in zip(self._readers, self._looks, strict=True)
        ]


class LastRead(LocalShards):
    """Shards of a folder that remember what was read last: readers of one clip share it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._held: tuple[tuple[str, int, int], bytes] | None = None

    def read(self, shard: str, begin: int, end: int) -> bytes:
        """Return the bytes of a shard from `begin` to before `end`, fewer if it ends before.

        Raises:
            UnreadableError: the shard is missing or cannot be read.
        """
        if self._held is None or self._held[0] != (shard, begin, end):
            self._held = (shard, begin, end), super().read(shard, begin, end)
        return self._held[1]


def open_views(clips: SeenClips, batch_size: int, num_workers: int = 0) -> Iterator[list[Any]]:
    """Yield for `batch_size` clips at a time their views by look, in the order of the rows.

    Raises:
        StageError: a worker was killed.
        ShardError: a shard is damaged.
    """
    numbers = list(range(len(clips.rows)))
    batches = [numbers[first : first + batch_size] for first in numbers[::batch_size]]
    return load_batches(clips, batches, list, num_workers)


class _OpenedClip(NamedTuple):
    """A segment, and what was decoded of it for one look and may serve another."""

    segment: Any
    decoded: dict[Hashable, Tensor]


def _read_views(clip: _OpenedClip, reader: ClipReader, look: Look) -> Views:
    last_start = look.wanted.find_last_start(clip.segment)
    windows = [_read_window(clip, reader, look, place * last_start) for place in look.places]
    names = windows[0].keys()
    signals = {name: torch.cat([window[name] for window in windows]) for name in names}
    return Views(signals, len(windows))


def _read_window(
    clip: _OpenedClip, reader: ClipReader, look: Look, start: float
) -> dict[str, Float[Tensor, "K ..."]]:
    wanted, signals, num_crops = look.wanted, {}, 1
    if "video" in MODALITIES[wanted.task]:
        start = round(start)
        crops = [wanted.shape_video(crop) for crop in _read_crops(clip, reader, look, start)]
        signals["video"], num_crops = torch.stack(crops), len(crops)
    if "audio" in MODALITIES[wanted.task]:
        key = ("audio", reader.clip.num_samples, start)
        if key not in clip.decoded:
            clip.decoded[key] = reader.read_audio(clip.segment, start)
        signals["audio"] = wanted.shape_audio(clip.decoded[key]).expand(num_crops, -1)
    return signals


def _read_crops(
    clip: _OpenedClip, reader: ClipReader, look: Look, start_frame: int
) -> Float[Tensor, "K T H W 3"]:
    """Return the crops of a window in [-1, 1]; one that is grey if there is no picture."""
    size_px, segment = reader.clip.frame_size_px, clip.segment
    if not segment.has_video:
        return torch.zeros((1, reader.clip.num_frames, size_px, size_px, 3))
    picture_px = (int(segment.height_px), int(segment.width_px))
    views = tuple(side_views(picture_px, size_px, look.num_crops))
    key = ("video", reader.clip.num_frames, size_px, start_frame, views)
    if key not in clip.decoded:
        clip.decoded[key] = reader.read_crops(segment, start_frame, views)
    return to_unit(clip.decoded[key]).mul_(2).sub_(1)
