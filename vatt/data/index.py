"""The index of a preprocessed corpus: a Parquet file with a row for each segment."""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vatt.data.segment import Segment
from vatt.params import StageError

INDEX_NAME = "index.parquet"
SHARDS_NAME = "shards"
QUARANTINE_NAME = "quarantine.jsonl"
DUPLICATES_NAME = "duplicates.jsonl"
ROWS_PER_GROUP = 50_000


_ARROW_TYPES = {
    str: (pa.string(), False),
    str | None: (pa.string(), True),
    int: (pa.int64(), False),
    float: (pa.float64(), False),
    bool: (pa.bool_(), False),
}


def _schema() -> pa.Schema:
    columns = []
    for field in dataclasses.fields(Segment):
        arrow_type, nullable = _ARROW_TYPES[field.type]  # type: ignore[index]
        columns.append(pa.field(field.name, arrow_type, nullable=nullable))
    return pa.schema(columns)


class IndexWriter:
    """Writes an index row group by row group; segments come in the order of their keys."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, _schema())
        self._rows: list[Segment] = []
        self._last_key = ""

    def extend(self, segments: Iterable[Segment]) -> None:
        """Append rows."""
        for segment in segments:
            if segment.key <= self._last_key:
                raise ValueError(f"{segment.key} does not come after {self._last_key}")
            self._last_key = segment.key
            self._rows.append(segment)
            if len(self._rows) == ROWS_PER_GROUP:
                self._write_group()

    def _write_group(self) -> None:
        rows = [vars(segment) for segment in self._rows]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=_schema()))
        self._rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._write_group()
        self._writer.close()


def digest_index(preprocess_dir: Path) -> str:
    """Return the BLAKE2b of the index, hexadecimal: the version of the corpus.

    The rows hold digests of what the shards hold, so that another corpus has another index.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    with (preprocess_dir / INDEX_NAME).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def open_index(preprocess_dir: Path) -> pq.ParquetFile:
    """Open the index of a preprocessed corpus, to read it part by part.

    Raises:
        StageError: the file is missing, damaged or of another version of this program.
    """
    path = preprocess_dir / INDEX_NAME
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise StageError(
            f"{path}: does not exist; run `python -m vatt preprocess` first"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise StageError(f"{path}: cannot be read: {error}") from error
    if not file.schema_arrow.equals(_schema()):
        missing = sorted({*_schema().names} - {*file.schema_arrow.names})
        raise StageError(
            f"{path}: has other columns than this version of vatt writes (missing: {missing}); "
            "run `python -m vatt preprocess` again"
        )
    return file


def read_index(preprocess_dir: Path) -> pd.DataFrame:
    """Read the index of a preprocessed corpus: the columns of `Segment`, sorted by key.

    Raises:
        StageError: the file is missing, damaged or of another version of this program.
    """
    try:
        frame: pd.DataFrame = open_index(preprocess_dir).read().to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise StageError(f"{preprocess_dir / INDEX_NAME}: cannot be read: {error}") from error
    return frame
