"""Official lists of data sets: rows with file and line, checked, and the items made of them."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Concatenate, NamedTuple, ParamSpec

from vatt.core.errors import StageError
from vatt.corpus.manifest import FOLD_TASK, Annotation, Split
from vatt.download.remote_files import StoredFile
from vatt.download.storage import Storage
from vatt.media.caption_formats import parse_seconds
from vatt.params import FetchParams

IDENTIFIER = re.compile(r"[A-Za-z0-9_-]+")


class RowError(ValueError):
    """A row cannot be used; the message names the field and its value."""


class Row(NamedTuple):
    """A row of a list."""

    place: str
    """File and line; within JSON, the file and the keys."""
    line: int
    fields: Any
    """The texts by column; of JSON, the value as it stands."""
    problem: str | None = None

    def text(self, column: str) -> str:
        """Return a field that must not be empty."""
        value: str = self.fields.get(column, "").strip()
        if not value:
            raise RowError(f"{column}: is empty")
        return value

    def identifier(self, column: str) -> str:
        """Return a field of letters, digits, _ and -, as the ids of videos are."""
        value = self.text(column)
        if not IDENTIFIER.fullmatch(value):
            raise RowError(f"{column} = {value!r}: must be an id of letters, digits, _ and -")
        return value

    def part_s(self, start: str, end: str) -> tuple[float, float]:
        """Return a start and the end after it, in seconds."""
        start_s = read_seconds(self.text(start), start)
        return check_part(start_s, read_seconds(self.text(end), end))


def read_seconds(value: Any, field: str) -> float:
    """Return a number of seconds, 0 or more, however it is written; raise RowError for others."""
    time_s = parse_seconds(value)
    if not (math.isfinite(time_s) and time_s >= 0):
        raise RowError(f"{field} = {value!r}: must be a number of seconds, 0 or more")
    return time_s


def check_part(start_s: float, end_s: float, field: str = "") -> tuple[float, float]:
    """Return start and end; raise RowError, which names `field`, where that is no part."""
    if end_s <= start_s:
        field = field and f"{field}: "
        raise RowError(f"{field}end = {end_s:g}: must be after start = {start_s:g}")
    return start_s, end_s


class Item(NamedTuple):
    """An item of an official list, or a row of it that cannot be used."""

    item_id: str
    """Unique within the data set; names the item where it has no file."""
    split: Split
    names: tuple[str, ...] = ()
    """What a file of this item alone may be called: ends of paths without suffix, best first."""
    annotations: tuple[Annotation, ...] = ()
    whole_video: str | None = None
    """What the video may be called of which the item is a part."""
    part_s: tuple[float, float] | None = None
    """Start and end of the item in `whole_video`."""
    recording: str | None = None
    """What it shares with the items cut from the same recording, which stay in one split; None: see
    `whole_video`, and where that is None, too, it is a recording of its own."""
    problem: str | None = None
    """Why the list itself makes the item unusable."""
    unused: str | None = None
    """Why this fold or protocol leaves the item out, if it does; `split` says nothing then."""


Given = ParamSpec("Given")


def make_items(
    rows: Iterable[Row],
    split: Split,
    make: Callable[Concatenate[Row, Given], Item],
    *args: Given.args,
    **kwargs: Given.kwargs,
) -> Iterator[Item]:
    """Yield the item that `make` makes of each row; wrong rows become items that say so."""
    for row in rows:
        try:
            if row.problem:
                raise RowError(row.problem)  # noqa: TRY301
            item = make(row, *args, **kwargs)
        except RowError as error:
            item = Item(row.place, split, problem=f"{row.place}: {error}")
        yield item


@lru_cache(maxsize=4096)
def label(task: str, name: str) -> Annotation:
    """Return the label of a whole file; equal ones are one object, since lists have millions."""
    return Annotation(task, name)


def fold_label(fold: int, split: Split) -> Annotation:
    """Return what a whole file is for in an official fold: `train` or `test`."""
    return label(FOLD_TASK, f"{fold}:{split}")


def stem_of(path: str) -> str:
    """Return a path without suffix: media are often converted, so that theirs says little."""
    return str(PurePosixPath(path).with_suffix("")) if PurePosixPath(path).name else path


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
        if found := self.find(*names):
            return found
        raise StageError(
            f"download.sources: annotations = {self._url!r}: holds no {' or '.join(names)} "
            "(docs/data_sets.md says what is needed)"
        )

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
            rows = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), **dialect)
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
