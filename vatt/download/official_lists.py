"""Reads the official annotation files of a data set, row by row, each with its file and line."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from vatt.core.errors import StageError
from vatt.download.items import Row
from vatt.download.remote_files import StoredFile
from vatt.download.storage import Storage
from vatt.params import FetchParams


class OfficialLists:
    """The folder of a data set's annotation files.

    StageError names the folder or file, and the line, that is missing, cannot be read, is not in
    UTF-8 or lacks a column.
    """

    def __init__(self, url: str, fetch: FetchParams) -> None:
        """List the folder."""
        self._url = url
        self.storage = Storage(url, fetch, "annotations")
        self.files: dict[str, StoredFile] = {
            file.name: file for file in self.storage.list_files() if not file.problem
        }
        self.media_names: Iterable[str] = ()
        """What the media are called, for a data set whose folders of classes are its list."""

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
        """Return the first of these files that is there; raise StageError if none is."""
        found = self.find(*names)
        if found is None:
            raise StageError(
                f"download.sources: annotations = {self._url!r}: holds no {' or '.join(names)} "
                "(docs/data_sets.md says what is needed)"
            )
        return found

    def columns(self, name: str) -> list[str]:
        """Return the header of a CSV."""
        _, header = next(self._read(name), (0, []))
        return [column.strip() for column in header]

    def read_csv(self, name: str, *columns: str) -> Iterator[Row]:
        """Yield the rows of a CSV whose header holds at least these columns."""
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
        """Yield the rows of a CSV without header; lines that begin with # are none."""
        last = 0  # csv gives the line where a row ends; it is named by the one where it begins
        for line, values in self._read(name, skipinitialspace=True):
            first, last = last + 1, line
            if values and not values[0].startswith("#"):
                problem = None
                if first < last:
                    problem = f"goes on to line {last}: a quotation mark is not closed"
                fields = dict(zip(columns, values, strict=False))
                yield Row(f"{name} line {first}", first, fields, problem)

    def read_words(self, name: str, *columns: str) -> Iterator[Row]:
        """Yield the lines of a text as words between spaces; empty lines are none."""
        for line, values in self._read(name, delimiter=" ", quoting=csv.QUOTE_NONE):
            if words := " ".join(values).split():
                yield Row(f"{name} line {line}", line, dict(zip(columns, words, strict=False)))

    def read_json(self, name: str) -> Any:
        """Read a JSON file whole."""
        with self.storage.open(self.files[name]) as file:
            try:
                content = json.load(file, object_pairs_hook=_refuse_doubles)
                # Half a character (an escape of half a pair) could not be written to the manifest.
                text = json.dumps(content, ensure_ascii=False)
                return json.loads(text.encode("utf-8", "replace"))
            except (ValueError, RecursionError) as error:
                raise StageError(f"{name}: is not JSON: {error}") from error

    def _read(self, name: str, **dialect: Any) -> Iterator[tuple[int, list[str]]]:
        """Yield the line where each row of a CSV ends, and the row."""
        with self.storage.open(self.files[name]) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            rows = csv.reader(text, **dialect)
            try:
                for row in rows:
                    yield rows.line_num, row
            except (csv.Error, UnicodeDecodeError) as error:
                raise StageError(
                    f"{name} after line {rows.line_num}: is no text in UTF-8: {error}"
                ) from error


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of JSON, of which else the last of equal keys would win silently."""
    content = dict(pairs)
    if len(content) < len(pairs):
        ((double, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{double!r} is given more than once")
    return content
