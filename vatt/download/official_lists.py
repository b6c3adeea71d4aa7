"""Reads the official annotation files of a data set, row by row, each with its file and line."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from vatt.core.errors import StageError
from vatt.corpus.manifest import Split
from vatt.download.items import Item
from vatt.download.labels import RowError
from vatt.download.storage import Storage, StoredFile
from vatt.params import FetchParams

IDENTIFIER = re.compile(r"[A-Za-z0-9_-]+")


class Row(NamedTuple):
    """A row of a list by its columns."""

    file: str
    line: int
    fields: Mapping[str, str]
    problem: str | None = None

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file} line {self.line}"

    def text(self, column: str) -> str:
        """Return a field that must not be empty."""
        value = self.fields.get(column, "").strip()
        if not value:
            raise RowError(f"{column}: is empty")
        return value

    def identifier(self, column: str) -> str:
        """Return a field of letters, digits, _ and -, as the ids of videos are."""
        value = self.text(column)
        if not IDENTIFIER.fullmatch(value):
            raise RowError(f"{column} = {value!r}: must be an id of letters, digits, _ and -")
        return value

    def seconds(self, column: str) -> float:
        """Return a time, 0 or more."""
        return read_seconds(self.text(column), column)

    def part_s(self, start: str, end: str) -> tuple[float, float]:
        """Return a start and the end after it."""
        return check_part(self.seconds(start), self.seconds(end))


def read_seconds(value: Any, field: str) -> float:
    """Return a number of seconds, 0 or more, that is written in any way.

    Raises:
        RowError: it is none.
    """
    try:
        time_s = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        time_s = math.nan
    if not (math.isfinite(time_s) and time_s >= 0):
        raise RowError(f"{field} = {value!r}: must be a number of seconds, 0 or more")
    return time_s


def check_part(start_s: float, end_s: float, field: str = "") -> tuple[float, float]:
    """Return start and end of a part of a video; `field` stands in the error.

    Raises:
        RowError: it does not end after its start.
    """
    if end_s <= start_s:
        field = field and f"{field}: "
        raise RowError(f"{field}end = {end_s:g}: must be after start = {start_s:g}")
    return start_s, end_s


def make_items(rows: Iterable[Row], split: Split, make: Callable[[Row], Item]) -> Iterator[Item]:
    """Yield the item that `make` makes of each row; rows that are wrong become items that say so."""
    for row in rows:
        problem = row.problem
        if problem is None:
            try:
                yield make(row)
            except RowError as error:
                problem = str(error)
        if problem is not None:
            yield Item(row.place, split, problem=f"{row.place}: {problem}")


class OfficialLists:
    """The folder of a data set's annotation files."""

    def __init__(self, url: str, fetch: FetchParams) -> None:
        """List the folder.

        Raises:
            StageError: it does not exist or cannot be listed.
        """
        self._url = url
        self.storage = Storage(url, fetch, "annotations")
        self.files: dict[str, StoredFile] = {
            file.name: file for file in self.storage.list_files() if not file.problem
        }

    def find(self, *names: str) -> str | None:
        """Return the first of these files that is there, in whatever folder; the topmost one."""
        for name in names:
            found = [path for path in self.files if path.rpartition("/")[2] == name]
            if found:
                return min(found, key=lambda path: (path.count("/"), path))
        return None

    def find_all(self, ending: str) -> list[str]:
        """Return all files whose names end so, sorted."""
        return sorted(path for path in self.files if path.endswith(ending))

    def need(self, *names: str) -> str:
        """Return the first of these files that is there.

        Raises:
            StageError: none of them is.
        """
        found = self.find(*names)
        if found is None:
            wanted = " or ".join(names)
            raise StageError(
                f"download.sources: annotations = {self._url!r}: holds no {wanted} "
                "(docs/data_sets.md says what is needed)"
            )
        return found

    def version(self, name: str) -> str:
        """Return something that changes when the file does."""
        return self.storage.version(self.files[name])

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file to be read as a stream.

        Raises:
            StageError: it cannot be read.
        """
        with self.storage.open(self.files[name]) as file:
            yield file

    def columns(self, name: str) -> list[str]:
        """Return the header of a CSV."""
        with self.open(name) as file, _as_text(file) as text:
            header = next(_number(name, csv.reader(text)), None)
        return [column.strip() for column in header[1]] if header else []

    def read_csv(self, name: str, *columns: str) -> Iterator[Row]:
        """Yield the rows of a CSV whose header holds at least these columns.

        Raises:
            StageError: a column is missing, or the file is no CSV in UTF-8.
        """
        header = self.columns(name)
        missing = [column for column in columns if column not in header]
        if missing:
            raise StageError(
                f"{name}: has no column {', '.join(missing)}; its header must hold "
                f"{','.join(columns)}; it is {','.join(header)}"
            )
        rows = self.read_bare_csv(name, *header)
        next(rows)
        yield from rows

    def read_bare_csv(self, name: str, *columns: str) -> Iterator[Row]:
        """Yield the rows of a CSV without header; lines that begin with # are none.

        Raises:
            StageError: the file is no CSV in UTF-8.
        """
        with self.open(name) as file, _as_text(file) as text:
            reader = csv.reader(text, skipinitialspace=True)
            last = 0
            for line, values in _number(name, reader):
                first, last = last + 1, line
                if values and not values[0].startswith("#"):
                    problem = None
                    if first < last:
                        problem = f"goes on to line {last}: a quotation mark is not closed"
                    yield Row(name, first, dict(zip(columns, values, strict=False)), problem)

    def read_words(self, name: str, *columns: str) -> Iterator[Row]:
        """Yield the lines of a text as words between spaces; empty lines are none.

        Raises:
            StageError: the file is no text in UTF-8.
        """
        with self.open(name) as file, _as_text(file) as text:
            for line, content in _number(name, _Lines(text)):
                if words := content.split():
                    yield Row(name, line, dict(zip(columns, words, strict=False)))

    def read_json(self, name: str) -> Any:
        """Read a JSON file whole.

        Raises:
            StageError: it is no JSON.
        """
        with self.open(name) as file:
            try:
                text = json.dumps(
                    json.load(file, object_pairs_hook=_refuse_doubles), ensure_ascii=False
                )
                # Half a character (an escape of half a pair) could not be written to the manifest.
                return json.loads(text.encode("utf-8", "replace"))
            except (ValueError, RecursionError) as error:
                raise StageError(f"{name}: is not JSON: {error}") from error


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of JSON, of which else the last of equal keys would win silently."""
    content = dict(pairs)
    if len(content) < len(pairs):
        double = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{double!r} is given more than once")
    return content


class _Lines:
    """Lines of a text with their number, like csv.reader."""

    def __init__(self, text: Iterable[str]) -> None:
        self.line_num = 0
        self._lines = iter(text)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.line_num += 1
        return line


def _as_text(file: BinaryIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _number(name: str, rows: Any) -> Iterator[tuple[int, Any]]:
    """Yield the line where each row ends, and the row.

    Raises:
        StageError: a row cannot be read; file and line are named.
    """
    try:
        for row in rows:
            yield rows.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise StageError(
            f"{name} after line {rows.line_num}: is no text in UTF-8: {error}"
        ) from error
