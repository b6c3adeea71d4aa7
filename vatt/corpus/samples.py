"""What training must know of each sample, as records of one length that are read one by one.

The index of a large corpus does not fit in the memory of every rank and worker, and random rows of
Parquet are slow. So `preprocess` copies the usable rows to this file, sorted by source; opening it
takes no time, and a sample costs one short read.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.core.errors import StageError
from vatt.corpus.index import open_index

SAMPLES_NAME = "samples.bin"
ROWS_AT_ONCE = 100_000


@dataclasses.dataclass(frozen=True)
class Sample:
    """A segment that can be learnt from: the columns of `Segment` that training needs."""

    key: str
    shard: str
    has_video: bool
    has_audio: bool
    num_context_captions: int
    num_frames: int
    frame_rate_hz: float
    width_px: int
    height_px: int
    num_samples: int
    video_offset: int
    video_bytes: int
    audio_offset: int
    audio_bytes: int
    meta_offset: int
    meta_bytes: int


FIELDS = {field.name: field.type for field in dataclasses.fields(Sample)}
TEXTS = [name for name, kind in FIELDS.items() if kind is str]
CODES = {bool: "?", int: "<i8", float: "<f8"}


class SampleTable:
    """The samples of a corpus by their number; `sizes` says how many each source has, in order.

    Raises:
        StageError: the file is missing, damaged or of another version of this program, or nothing
            in it can be learnt from.
    """

    def __init__(self, preprocess_dir: Path) -> None:
        path = preprocess_dir / SAMPLES_NAME
        try:
            self._file = path.open("rb")
            self.sizes, self._dtype = _read_header(self._file)
        except (OSError, ValueError) as error:
            raise StageError(
                f"{path}: cannot be read: {error}; run `python -m vatt preprocess` again"
            ) from error
        self._first_byte = self._file.tell()
        if not len(self):
            raise StageError(
                f"{preprocess_dir}: no segment of the split train has a picture, and sound or "
                "captions"
            )

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __getitem__(self, number: int) -> Sample:
        size = self._dtype.itemsize
        # Forked workers share the position of the file, so each read names its own.
        content = os.pread(self._file.fileno(), size, self._first_byte + number * size)
        values = np.frombuffer(content, self._dtype)[0].item()
        columns: dict[str, Any] = dict(zip(FIELDS, values, strict=True))
        return Sample(**columns | {name: columns[name].decode() for name in TEXTS})


def _read_header(file: BinaryIO) -> tuple[dict[str, int], np.dtype[Any]]:
    """Return how many samples each source has, and the layout of a record.

    ValueError says that the file is damaged or of another version of this program.
    """
    header = json.loads(file.readline())
    if not isinstance(header, dict) or header.get("fields") != list(FIELDS):
        raise ValueError("it is of another version of vatt")
    sizes, dtype = header["sizes"], _make_dtype(header["widths"])
    num_bytes = file.tell() + sum(sizes.values()) * dtype.itemsize
    if os.fstat(file.fileno()).st_size != num_bytes:
        raise ValueError(f"it is not {num_bytes} bytes long")
    return sizes, dtype


def _make_dtype(widths: dict[str, int]) -> np.dtype[Any]:
    """Return the layout of a record; texts have the length of the longest one."""
    texts = {name: f"S{width}" for name, width in widths.items()}
    return np.dtype([(name, texts.get(name) or CODES[kind]) for name, kind in FIELDS.items()])  # type: ignore[index]


def write_samples(preprocess_dir: Path) -> None:
    """Write the file from the index of a corpus, in memory that does not grow with it."""
    sizes: Counter[str] = Counter()
    widths = dict.fromkeys(TEXTS, 1)
    for rows in _read_usable(preprocess_dir, ["source", *TEXTS]):
        for row in rows["source"].value_counts().to_pylist():
            sizes[row["values"]] += row["counts"]
        for name in TEXTS:
            widths[name] = max(widths[name], pc.max(pc.binary_length(rows[name])).as_py() or 0)
    ordered = dict(sorted(sizes.items()))
    header = {"fields": list(FIELDS), "sizes": ordered, "widths": widths}
    content, dtype = json.dumps(header).encode() + b"\n", _make_dtype(widths)
    starts = np.cumsum([0, *ordered.values()]) * dtype.itemsize + len(content)
    places = dict(zip(ordered, starts.tolist(), strict=False))
    with (preprocess_dir / SAMPLES_NAME).open("wb") as file:
        file.write(content)
        for rows in _read_usable(preprocess_dir, ["source", *FIELDS]):
            records = np.empty(len(rows), dtype)
            for name in FIELDS:
                column = rows[name].cast(pa.binary()) if name in TEXTS else rows[name]
                records[name] = column.to_numpy(zero_copy_only=False)
            sources = rows["source"].to_numpy(zero_copy_only=False)
            for source in set(sources):
                content = records[sources == source].tobytes()
                file.seek(places[source])
                file.write(content)
                places[source] += len(content)


def _read_usable(preprocess_dir: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield rows of training segments with a picture, and sound or captions; a part at a time."""
    needed = {*columns, "split", "has_video", "has_audio", "num_context_captions"}
    index = open_index(preprocess_dir)
    for rows in index.iter_batches(ROWS_AT_ONCE, columns=sorted(needed)):
        has_partner = pc.or_(rows["has_audio"], pc.greater(rows["num_context_captions"], 0))
        usable = pc.and_(pc.equal(rows["split"], "train"), pc.and_(rows["has_video"], has_partner))
        yield rows.filter(usable)
