"""The clips of a split: what is known of them, and which of them are one sample."""

import hashlib
import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from vatt.loading.clips import ClipReader
from vatt.loading.loader import MIDDLE

Arrays = dict[str, Float[np.ndarray, "N ..."]]
SampleClips = Sequence[int]
"""Clips that are one sample, in order of time: parts of one file or of one of its parts."""
TOUCHING_S = 1e-3
"""Clips that are this near in time are neighbours: what is less is rounding."""


@dataclass(frozen=True)
class Clips:
    """The clips of a split, each called by its number in the index of the split."""

    rows: pd.DataFrame
    """The rows of the index."""
    texts: Sequence[tuple[str, ...]]
    """The annotated descriptions of each clip, else the narration nearest to its middle, if any."""
    places: tuple[float, ...]
    """Where the windows start that networks see, as in `Look`."""
    digest: str
    """The digest of all of these: results on equal ones can be compared."""

    @cached_property
    def labels(self) -> list[dict[str, list[str]]]:
        """The labels of each clip by task."""
        return [json.loads(text) for text in self.rows["labels"]]

    @cached_property
    def videos(self) -> list[str]:
        """The file that each clip is part of, after its source and a slash."""
        return [f"{row.source}/{row.video_id}" for row in self.rows.itertuples()]

    def find_pairs(self, direction: str) -> list[SampleClips]:
        """Return the samples that have what text_to_video or audio_to_video needs.

        Neighbours in one file that have the same descriptions were one before they were cut.
        """
        queries = np.array([bool(texts) for texts in self.texts], dtype=bool)
        if direction == "audio_to_video":
            queries = self._have("audio")
        described = enumerate(self.rows["descriptions"])
        keys = [number if text == "[]" else text for number, text in described]
        return self._join(keys, self._have("video") & queries)

    def find_labelled(self, task: str, modalities: Iterable[str]) -> list[SampleClips]:
        """Return the samples that have labels of a task and all of the modalities.

        Neighbours in one file that have the same labels and descriptions were one before the cut.
        """
        usable = np.array([task in labels for labels in self.labels], dtype=bool)
        for modality in modalities:
            usable &= self._have(modality)
        keys = zip(self.rows["labels"], self.rows["descriptions"], strict=True)
        return self._join(list(keys), usable)

    def _have(self, modality: str) -> Bool[np.ndarray, "N"]:
        return self.rows[f"has_{modality}"].to_numpy(dtype=bool)

    def _join(self, keys: Sequence[Hashable], usable: Bool[np.ndarray, "N"]) -> list[SampleClips]:
        """Bring neighbours of equal keys together; of these, the usable ones are samples."""
        starts_s, ends_s = (self.rows[name].to_numpy(dtype=float) for name in ("start_s", "end_s"))
        groups: list[list[int]] = []
        for number, key in enumerate(keys):
            last = number - 1
            if (
                number
                and keys[last] == key
                and self.videos[last] == self.videos[number]
                and abs(starts_s[number] - ends_s[last]) < TOUCHING_S
            ):
                groups[-1].append(number)
            else:
                groups.append([number])
        kept = [[number for number in group if usable[number]] for group in groups]
        return [sample for sample in kept if sample]

    def see_samples(
        self, values: Float[np.ndarray, "N W D"], samples: Sequence[SampleClips]
    ) -> Float[np.ndarray, "M W D"]:
        """Return each sample by as many windows, evenly spaced over its clips."""
        has_middle_first = self.places[0] == MIDDLE and values.shape[1] > 1
        spread = values[:, int(has_middle_first) :]
        num_windows = spread.shape[1]
        chosen = [_space(len(sample), num_windows) for sample in samples]
        pairs = [
            (sample[place // num_windows], place % num_windows)
            for sample, places in zip(samples, chosen, strict=True)
            for place in places
        ]
        clips, windows = np.array(pairs, dtype=np.int64).reshape(len(samples), num_windows, 2).T
        seen: Float[np.ndarray, "M W D"] = spread[clips.T, windows.T]
        return seen


class Seen(NamedTuple):
    """The clips of a split, and what a network makes of them."""

    clips: Clips
    arrays: Arrays


def _space(num_clips: int, num_windows: int) -> list[int]:
    """Choose as many windows, evenly spaced, out of those of several clips."""
    if num_windows == 1:
        return [(num_clips - 1) // 2]
    places = np.linspace(0, num_clips * num_windows - 1, num_windows).round().astype(int)
    return [int(place) for place in places]


def read_clips(reader: ClipReader, rows: pd.DataFrame, places: tuple[float, ...]) -> Clips:
    """Read the texts of the clips of a split, the `rows` of the index.

    Raises:
        ShardError: a shard is damaged.
    """
    texts = []
    for _, segment in rows.iterrows():
        middle_start = (int(segment.num_frames) - reader.clip.num_frames) // 2
        described = json.loads(segment.descriptions)
        texts.append(tuple(described or reader.read_narration(segment, middle_start, 1)))
    content = rows.to_csv(index=False) + json.dumps([texts, places])
    return Clips(rows, texts, places, hashlib.sha256(content.encode()).hexdigest())
