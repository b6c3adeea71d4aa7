"""Corpora of many segments: real and simulated copies of the few of `small_corpus`."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vatt.corpus.index import INDEX_NAME, IndexWriter, Segment, make_schema, read_index
from vatt.corpus.shards import HEADER_BYTES, SUFFIXES, LocalShards, write_members

ROWS_AT_ONCE = 100_000
TASKS = {"action": 10, "event": 7}
"""Labels by the number of their classes."""


def copy_segments(preprocess_dir: Path, sizes: dict[str, int]) -> None:
    """Write an index and one more shard in a corpus: `sizes` segments of each split.

    They go round the segments of the split that are there, under keys and in videos of their own.
    """
    rows = [Segment(**row) for row in pq.read_table(preprocess_dir / INDEX_NAME).to_pylist()]
    segments: list[Segment] = []
    for split, size in sizes.items():
        olds = [row for row in rows if row.split == split]
        with (preprocess_dir / f"shards/{split}-many.tar").open("wb") as file:
            for number in range(size):
                old = olds[number % len(olds)]
                shard = (preprocess_dir / "shards" / old.shard).read_bytes()
                places = {
                    k: [getattr(old, f"{k}_{n}") for n in ("offset", "bytes")] for k in SUFFIXES
                }
                contents = {k: shard[at : at + size] for k, (at, size) in places.items() if size}
                key = f"{split}{number:06d}_0000"
                new = write_members(file, key, contents)
                new |= {"key": key, "video_id": f"{split}/{number}", "shard": Path(file.name).name}
                segments.append(dataclasses.replace(old, **new))
    with IndexWriter(preprocess_dir / INDEX_NAME) as writer:
        writer.extend(sorted(segments, key=lambda segment: segment.key))


class SimulatedShards:
    """Segments that are all one segment: their shards are called after their keys.

    It counts what is read of them.
    """

    def __init__(self, preprocess_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._row: pd.Series[Any] = read_index(preprocess_dir, split="train").iloc[0]
        self._preprocess_dir = preprocess_dir
        self.num_bytes, self.keys = 0, set[str]()
        read = LocalShards.read

        def read_copy(shards: LocalShards, shard: str, begin: int, end: int) -> bytes:
            key = shard.removesuffix(".simulated")
            if key == shard:
                return read(shards, shard, begin, end)
            content = bytearray(read(shards, self._row["shard"], begin, end))
            for kind, suffix in SUFFIXES.items():
                name = f"{key}{suffix}\0".encode()
                place = int(self._row[f"{kind}_offset"]) - begin - HEADER_BYTES
                content[place : place + len(name)] = name
            self.num_bytes += len(content)
            self.keys.add(key)
            return bytes(content)

        monkeypatch.setattr(LocalShards, "read", read_copy)

    def write_index(self, num_rows: int) -> None:
        """Write an index with a split train of so many; validation and test stay small.

        A training clip has a class of each of the tasks, in turn; the others have the first.
        """
        schema, path = make_schema(), self._preprocess_dir / INDEX_NAME
        others = pq.read_table(path, filters=[("split", "!=", "train")])
        train = pq.read_table(path, filters=[("split", "==", "train")]).slice(0, 1)
        with pq.ParquetWriter(path, schema) as writer:
            for first in range(0, num_rows, ROWS_AT_ONCE):
                size = min(ROWS_AT_ONCE, num_rows - first)
                part = train.take(pa.array(np.zeros(size, int)))
                for name, values in self._change(range(first, first + size)):
                    part = part.set_column(
                        schema.get_field_index(name), schema.field(name), [values]
                    )
                writer.write_table(part)
            labels = json.dumps({task: ["class 0"] for task in TASKS})
            place = schema.get_field_index("labels")
            writer.write_table(
                others.set_column(place, "labels", [[labels] * len(others)]).cast(schema)
            )

    def _change(self, numbers: range) -> Iterator[tuple[str, list[str]]]:
        keys = [f"{number:016x}_0000" for number in numbers]
        labels = [json.dumps({t: [f"class {n % m}"] for t, m in TASKS.items()}) for n in numbers]
        yield "key", keys
        yield "video_id", keys
        yield "labels", labels
        yield "shard", [f"{key}.simulated" for key in keys]
