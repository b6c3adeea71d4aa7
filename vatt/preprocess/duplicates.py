"""Near-duplicates: videos that look or sound like one of another split, coded in another way.

Each video is a row of hashes, one for a second (see `vatt.preprocess.analysis`). Hashes that agree
in a quarter of their bits, found by a lookup, say which videos to compare at which lag; two videos
are duplicates if there they agree well for at least half of the shorter one. Only the test and the
validation split are in memory, the rest is read in passing.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int, UInt64

from vatt.corpus.index import DUPLICATES_NAME, INDEX_NAME
from vatt.preprocess.analysis import HASH_DIGITS, seconds_within

KINDS = ("picture", "sound")
COLUMNS = [
    *("key", "source", "video_id", "split", "start_s", "end_s"),
    *(f"{kind}_hashes" for kind in KINDS),
]
ORDER = {"test": 0, "validation": 1, "train": 2}
"""A video is called a duplicate of one of a split before its own: so it can leave training."""
BANDS = tuple(np.uint64(16 * band) for band in range(4))
MAX_IN_BAND = 500
"""A quarter that more hashes share means nothing, such as that of pictures with black borders."""
MAX_DISTANCE = {"picture": 10.0, "sound": 8.0}
"""Mean number of bits, of 64, that may differ; those of other content differ in about 32."""

Hashes = UInt64[np.ndarray, "S"]


class Video(NamedTuple):
    """A video of the index and its hashes by kind, from second 0 on; 0 where there is nothing."""

    name: Mapping[str, str]
    """The source, the video_id and the split."""
    hashes: Mapping[str, Hashes]


class Match(NamedTuple):
    """A video of the index that another one agrees with, and how well."""

    video: Video
    num_seconds: int
    distance: float
    """Mean number of bits that differ."""


def write_duplicates(corpus_dir: Path) -> int:
    """Write duplicates.jsonl beside the index, an object a line; returns the number of lines.

    A line names a video, its split, and under `duplicate_of` the source, video id and split of the
    one it is like, the `kind` (picture or sound), for how many seconds, and the mean distance.
    """
    rows = list(find_duplicates(corpus_dir / INDEX_NAME))
    rows.sort(key=lambda row: (row["source"], row["video_id"], row["kind"]))
    with (corpus_dir / DUPLICATES_NAME).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


def find_duplicates(index_path: Path) -> Iterator[dict[str, Any]]:
    """Yield for each video and kind the best match in a split before its own, if there is one."""
    rows = pq.read_table(index_path, columns=COLUMNS, filters=[("split", "!=", "train")])
    known = list(_join_segments(rows.to_pylist()))
    if not known:
        return
    lookups = {kind: _Lookup(known, kind) for kind in KINDS}
    with pq.ParquetFile(index_path) as index:
        batches = index.iter_batches(columns=COLUMNS)
        for video in _join_segments(row for batch in batches for row in batch.to_pylist()):
            for kind, lookup in lookups.items():
                match = lookup.find(video)
                if match is not None:
                    yield {
                        **video.name,
                        "duplicate_of": match.video.name,
                        "kind": kind,
                        "num_seconds": match.num_seconds,
                        "distance": round(match.distance, 2),
                    }


def _join_segments(rows: Iterable[dict[str, Any]]) -> Iterator[Video]:
    """Yield the videos of rows that are sorted by key, so that those of a video adjoin."""
    for _, group in groupby(rows, key=lambda row: row["key"].partition("_")[0]):
        segments = list(group)
        hashes = {}
        for kind in KINDS:
            known: dict[int, int] = {}
            for row in segments:
                for place, second in enumerate(seconds_within(row["start_s"], row["end_s"])):
                    digits = row[f"{kind}_hashes"][place * HASH_DIGITS :][:HASH_DIGITS]
                    known[second] = int(digits or "0", 16)
            length = max(known, default=-1) + 1
            hashes[kind] = np.array([known.get(n, 0) for n in range(length)], np.uint64)
        yield Video({name: segments[0][name] for name in ("source", "video_id", "split")}, hashes)


class _Lookup:
    """Finds the videos that share a quarter of a hash with another one."""

    def __init__(self, videos: list[Video], kind: str) -> None:
        self._videos, self._kind = videos, kind
        rows = [video.hashes[kind] for video in videos]
        seconds = [np.flatnonzero(row) for row in rows]
        self._numbers = np.repeat(np.arange(len(rows)), [len(row) for row in seconds])
        self._seconds = np.concatenate(seconds)
        hashes = np.concatenate([row[row != 0] for row in rows])
        self._bands = []
        for shift in BANDS:
            quarters = _quarter(hashes, shift)
            order = np.argsort(quarters, kind="stable")
            self._bands.append((quarters[order], order))

    def find(self, video: Video) -> Match | None:
        """Return the most similar of the videos of a split before that of `video` that match it."""
        hashes = video.hashes[self._kind]
        matches = [
            _compare(hashes, self._videos[number], self._kind, lag)
            for number, lag in self._propose(hashes)
            if ORDER[self._videos[number].name["split"]] < ORDER[video.name["split"]]
        ]
        limit = MAX_DISTANCE[self._kind]
        close = (match for match in matches if match is not None and match.distance <= limit)
        return min(close, key=lambda match: match.distance, default=None)

    def _propose(self, hashes: Hashes) -> list[tuple[int, int]]:
        """Return the number of each video that shares quarters, and the lag at which most agree."""
        seconds = np.flatnonzero(hashes)
        pairs = [np.zeros((0, 2), np.int64)]
        for shift, (quarters, order) in zip(BANDS, self._bands, strict=True):
            asked = _quarter(hashes[seconds], shift)
            begin = np.searchsorted(quarters, asked)
            counts = np.searchsorted(quarters, asked, side="right") - begin
            counts[counts > MAX_IN_BAND] = 0
            starts = np.repeat(begin - np.cumsum(counts) + counts, counts)
            places = order[starts + np.arange(counts.sum())]
            lags = np.repeat(seconds, counts) - self._seconds[places]
            pairs.append(np.stack([self._numbers[places], lags], axis=1))
        found, votes = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
        chosen = {int(found[place, 0]): int(found[place, 1]) for place in np.argsort(votes)}
        return sorted(chosen.items())


def _quarter(hashes: Hashes, shift: np.uint64) -> Int[np.ndarray, "S"]:
    return ((hashes >> shift) & np.uint64(0xFFFF)).astype(np.int64)


def _compare(hashes: Hashes, video: Video, kind: str, lag: int) -> Match | None:
    """Compare second s of the hashes with seconds s - lag - 1 to s - lag + 1 of a video.

    Each copy is cut into seconds anew, so that what is equal may lie in the one beside. None if too
    few can be compared.
    """
    others, seconds = video.hashes[kind], np.flatnonzero(hashes)
    distances = np.full(len(seconds), 99)
    for shift in (-1, 0, 1):
        places = seconds - lag + shift
        inside = (places >= 0) & (places < len(others))
        known = others[np.clip(places, 0, max(0, len(others) - 1))]
        bits = np.bitwise_count(hashes[seconds] ^ known)
        distances = np.minimum(distances, np.where(inside & (known != 0), bits, 99))
    compared = distances[distances < 99]
    shorter = min(len(seconds), int(np.count_nonzero(others)))
    if len(compared) < max(2, shorter / 2):
        return None
    return Match(video, len(compared), float(compared.mean()))
