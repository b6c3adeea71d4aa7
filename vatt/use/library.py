"""The library: what a model made of files, as vectors of their passages in a LanceDB table.

One row is one passage. A file of which nothing could be read has one row with the reason. Which
model the vectors are from stands in the metadata of the table: those of two models do not mix.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from lancedb.index import IvfFlat

from vatt.core.errors import StageError
from vatt.core.files import atomic_path

TABLE, VERSION = "passages", "1"
DISTANCE: Literal["dot"] = "dot"
SPACES = ("video_va", "video_vt", "audio_va")
"""The columns of vectors: pictures beside sound and beside text, sound beside pictures."""
EXACT_ROWS = 100_000
"""Up to so many passages every one is compared: that takes some 10 ms on two cores."""
NUM_PROBES = 32
"""Parts of an approximate index that a search looks into."""
KEPT = timedelta(minutes=10)
"""What was replaced stays so long, for who reads it at the moment."""
SQL_TEXTS = 500
"""How many names one condition holds."""
Origin = Mapping[str, str]
"""What the vectors depend on: the model by digest and name, the length of passages."""


class Found(NamedTuple):
    """A passage that a search found."""

    path: str
    start_s: float
    end_s: float
    score: float
    """The cosine of the passage and what was searched for."""


class Library:
    """A folder of vectors; what is added is there whole or not at all."""

    def __init__(self, folder: Path, table: Any) -> None:
        self.folder, self._table = folder, table

    @classmethod
    def open(cls, folder: Path) -> "Library":
        """Open a library.

        Raises:
            StageError: there is none, or another version of vatt wrote it.
        """
        table = None
        if folder.is_dir():
            with _name_errors(folder):
                names = _connect(folder).list_tables().tables
                table = _connect(folder).open_table(TABLE) if TABLE in names else None
        if table is None:
            raise StageError(f"{folder}: is no library: make one with `python -m vatt embed`")
        library = cls(folder, table)
        version = library.origin.get("version")
        if version != VERSION:
            raise StageError(
                f"{folder}: is a library of version {version}, not {VERSION}: remove it and embed "
                "the files again"
            )
        return library

    @classmethod
    def create(cls, folder: Path, origin: Origin, widths: Mapping[str, int]) -> "Library":
        """Open a library for what a model makes of files, a new one where there is none.

        Raises:
            StageError: its vectors are of another model or of other passages.
        """
        if folder.is_dir() and TABLE in _connect(folder).list_tables().tables:
            library = cls.open(folder)
            for name, value in origin.items():
                if library.origin.get(name) != value and name != "model":
                    raise StageError(
                        f"{folder}: holds vectors of the model {library.origin['model']} with "
                        f"{name} {library.origin.get(name)}, not {value}: use another library, or "
                        "remove this one and embed the files again"
                    )
            return library
        with _name_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            schema = make_schema(widths).with_metadata({**origin, "version": VERSION})
            return cls(folder, _connect(folder).create_table(TABLE, schema=schema))

    @property
    def schema(self) -> pa.Schema:
        """The columns of a row."""
        return self._table.schema

    @property
    def origin(self) -> Origin:
        """See `Origin`; also the `version` of the table."""
        metadata = self.schema.metadata or {}
        return {key.decode(): value.decode() for key, value in metadata.items()}

    def __len__(self) -> int:
        return int(self._table.count_rows("start_s IS NOT NULL"))

    def read_states(self) -> dict[str, str]:
        """Return of each file the state in which it was embedded."""
        rows = self._table.search().select(["path", "state"]).to_arrow()
        return dict(zip(rows["path"].to_pylist(), rows["state"].to_pylist(), strict=True))

    def read_quarantine(self) -> dict[str, str]:
        """Return the files of which nothing could be read, and why."""
        rows = self._table.search().where("reason IS NOT NULL").select(["path", "reason"])
        found = rows.to_arrow()
        return dict(zip(found["path"].to_pylist(), found["reason"].to_pylist(), strict=True))

    def replace(self, paths: Iterable[str], rows: pa.Table | None = None) -> None:
        """Remove all rows of some files, then add `rows`: a kill between leaves them to be made."""
        names = sorted(paths)
        with _name_errors(self.folder):
            for first in range(0, len(names), SQL_TEXTS):
                self._table.delete(_match("path", names[first : first + SQL_TEXTS]))
            if rows is not None and len(rows):
                self._table.add(rows)

    def tidy(self) -> None:
        """Bring together what was added piece by piece, and index it where there is much of it."""
        with _name_errors(self.folder):
            indexed = {name for index in self._table.list_indices() for name in index.columns}
            for space in sorted(set(SPACES) - indexed):
                if self._table.count_rows(f"{space} IS NOT NULL") > EXACT_ROWS:
                    self._table.create_index(space, config=IvfFlat(distance_type=DISTANCE))
            self._table.optimize(cleanup_older_than=KEPT)

    def search(self, space: str, vector: Float[np.ndarray, " E"], num_results: int) -> list[Found]:
        """Return the passages with the largest cosines in a space, the best first."""
        query = self._table.search(vector, vector_column_name=space).distance_type(DISTANCE)
        query = query.nprobes(NUM_PROBES).limit(num_results)
        with _name_errors(self.folder):
            rows = query.select(["path", "start_s", "end_s", "_distance"]).to_arrow()
        # Equal scores in the order of names, so that the answer does not depend on the storage.
        found = [
            Found(row["path"], row["start_s"], row["end_s"], 1 - row["_distance"])
            for row in rows.to_pylist()
        ]
        return sorted(found, key=lambda one: (-one.score, one.path, one.start_s))

    def write_parquet(self, path: Path) -> None:
        """Write all rows to a Parquet file, sorted by file and time, whole or not at all."""
        with _name_errors(path), atomic_path(path) as partial:
            rows = self._table.to_arrow().sort_by([("path", "ascending"), ("start_s", "ascending")])
            pq.write_table(rows, partial)


def make_schema(widths: Mapping[str, int]) -> pa.Schema:
    """Return the columns of a table with vectors of some widths."""
    return pa.schema(
        [
            ("path", pa.string()),
            ("state", pa.string()),  # of the file when it was read
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("problem", pa.string()),  # what of the file is damaged
            ("reason", pa.string()),  # why nothing could be read
            *((name, pa.list_(pa.float32(), widths[name])) for name in SPACES),
        ]
    )


def _connect(folder: Path) -> Any:
    # Else a table that was opened before another process changed it would read what is gone.
    return lancedb.connect(str(folder), read_consistency_interval=timedelta(0))


def _match(column: str, texts: Iterable[str]) -> str:
    """Return the SQL condition that a column is one of some texts."""
    quoted = ("'" + text.replace("'", "''") + "'" for text in texts)
    return f"{column} IN ({', '.join(quoted)})"


@contextmanager
def _name_errors(place: Path) -> Iterator[None]:
    """Say which library it is that cannot be read or written."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise StageError(f"{place}: the library cannot be used: {error}") from error
