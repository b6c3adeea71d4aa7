"""The clips of a split: what they are called, what is known of them, which of them are one sample."""

import hashlib
import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from vatt.loading.clips import ClipReader
from vatt.loading.labelled import parse_labels
from vatt.loading.views import MIDDLE

Sample = Sequence[int]
"""Numbers of clips in order of time that are one sample: parts of one file or of one of its parts."""
TOUCHING_S = 1e-3
"""Clips that are this near in time are neighbours: what is less is rounding."""


@dataclass(frozen=True)
class Clips:
    """The clips of a split, in the order of the index.

    names: what a person may call them. videos: the file that each is part of, after its source and a
    slash. starts_s, ends_s: times in it. labels: by task.
    texts: the annotated descriptions, else the narration nearest to the middle, if any. is_described:
    whether it is the former. places: where the windows start that networks saw, see `Look`. digest:
    of the index, the texts and the places, so that results on equal digests can be compared.
    """

    digest: str
    names: Sequence[str]
    videos: Sequence[str]
    starts_s: Float[np.ndarray, "N"]
    ends_s: Float[np.ndarray, "N"]
    labels: Sequence[dict[str, list[str]]]
    texts: Sequence[tuple[str, ...]]
    is_described: Bool[np.ndarray, "N"]
    has_video: Bool[np.ndarray, "N"]
    has_audio: Bool[np.ndarray, "N"]
    places: tuple[float, ...]

    def find_pairs(self, direction: str) -> list[Sample]:
        """Return the samples that have what text_to_video or audio_to_video needs.

        Neighbours in one file that have the same descriptions were one before they were cut.
        """
        queries = np.array([bool(texts) for texts in self.texts], dtype=bool)
        if direction == "audio_to_video":
            queries = self.has_audio
        keys = [
            self.texts[number] if self.is_described[number] else number
            for number in range(len(self.names))
        ]
        return self._join(keys, self.has_video & queries)

    def find_labelled(self, task: str, modalities: Iterable[str]) -> list[Sample]:
        """Return the samples that have labels of a task and all of the modalities.

        Neighbours in one file that have the same labels and descriptions were one before they were cut.
        """
        usable = np.array([task in labels for labels in self.labels], dtype=bool)
        for modality in modalities:
            usable &= self.has_video if modality == "video" else self.has_audio
        keys = [
            (json.dumps(self.labels[number]), self._describe(number))
            for number in range(len(self.names))
        ]
        return self._join(keys, usable)

    def _describe(self, number: int) -> tuple[str, ...]:
        return self.texts[number] if self.is_described[number] else ()

    def _join(self, keys: Sequence[Hashable], usable: Bool[np.ndarray, "N"]) -> list[Sample]:
        """Bring neighbours of equal keys together; of these, the usable ones are samples."""
        groups: list[list[int]] = []
        for number in range(len(keys)):
            if number and keys[number - 1] == keys[number] and self._touches_last(number):
                groups[-1].append(number)
            else:
                groups.append([number])
        kept = [[number for number in group if usable[number]] for group in groups]
        return [sample for sample in kept if sample]

    def _touches_last(self, number: int) -> bool:
        """Whether a clip begins where the one before it ends, in the same file."""
        gap_s = self.starts_s[number] - self.ends_s[number - 1]
        return self.videos[number - 1] == self.videos[number] and abs(gap_s) < TOUCHING_S

    def see_middle(self, values: Float[np.ndarray, "N W D"]) -> Float[np.ndarray, "N D"]:
        """Return each clip by its middle window, which networks saw first of all."""
        return values[:, 0]

    def see_samples(
        self, values: Float[np.ndarray, "N W D"], samples: Sequence[Sample]
    ) -> Float[np.ndarray, "M W D"]:
        """Return each sample by as many windows, evenly spaced over its clips."""
        has_middle_first = self.places[0] == MIDDLE and values.shape[1] > 1
        spread = values[:, int(has_middle_first) :]
        num_windows = spread.shape[1]
        chosen = [_space(len(sample), num_windows) for sample in samples]
        clips = [
            [sample[place // num_windows] for place in places]
            for sample, places in zip(samples, chosen, strict=True)
        ]
        windows = [[place % num_windows for place in places] for places in chosen]
        shape = (len(samples), num_windows)
        seen: Float[np.ndarray, "M W D"] = spread[
            _to_numbers(clips, shape), _to_numbers(windows, shape)
        ]
        return seen


def read_clips(reader: ClipReader, rows: pd.DataFrame, places: tuple[float, ...]) -> Clips:
    """Describe the clips of a split, the `rows` of the index.

    Raises:
        ShardError: a shard is damaged.
    """
    segments = [segment for _, segment in rows.iterrows()]
    described = [_list_descriptions(segment) for segment in segments]
    texts = [
        own or _find_narration(reader, segment)
        for own, segment in zip(described, segments, strict=True)
    ]
    content = rows.to_csv(index=False) + json.dumps([texts, places])
    return Clips(
        digest=hashlib.sha256(content.encode()).hexdigest(),
        names=[_name(segment) for segment in segments],
        videos=[f"{segment.source}/{segment.video_id}" for segment in segments],
        starts_s=rows["start_s"].to_numpy(dtype=float),
        ends_s=rows["end_s"].to_numpy(dtype=float),
        labels=[parse_labels(segment.labels) for segment in segments],
        texts=texts,
        is_described=np.array([bool(own) for own in described], dtype=bool),
        has_video=rows["has_video"].to_numpy(dtype=bool),
        has_audio=rows["has_audio"].to_numpy(dtype=bool),
        places=places,
    )


def _list_descriptions(segment: Any) -> tuple[str, ...]:
    return tuple(json.loads(segment.descriptions))


def _find_narration(reader: ClipReader, segment: Any) -> tuple[str, ...]:
    middle_start = (int(segment.num_frames) - reader.clip.num_frames) // 2
    return tuple(reader.read_narration(segment, middle_start, 1))


def _name(segment: Any) -> str:
    times = f"{segment.start_s:.1f}–{segment.end_s:.1f}\u00a0s"
    return f"{segment.source}/{segment.video_id}, {times}"


def _space(num_clips: int, num_windows: int) -> list[int]:
    """Choose as many windows, evenly spaced, out of those of several clips."""
    if num_windows == 1:
        return [(num_clips - 1) // 2]
    places: list[int] = (
        np.linspace(0, num_clips * num_windows - 1, num_windows).round().astype(int).tolist()
    )
    return places


def _to_numbers(numbers: list[list[int]], shape: tuple[int, int]) -> Int[np.ndarray, "M W"]:
    return np.array(numbers, dtype=np.int64).reshape(shape)
