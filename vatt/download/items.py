"""Rows of official lists, checked, and the items that data sets make of them."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Concatenate, NamedTuple, ParamSpec

from vatt.corpus.manifest import FOLD_TASK, Annotation, Split
from vatt.media.captions import parse_seconds

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
        return check_identifier(self.text(column), column)

    def part_s(self, start: str, end: str) -> tuple[float, float]:
        """Return a start and the end after it, in seconds."""
        start_s = read_seconds(self.text(start), start)
        return check_part(start_s, read_seconds(self.text(end), end))


def check_identifier(value: str, field: str) -> str:
    """Return an id; it is refused if it holds more than letters, digits, _ and -."""
    if not IDENTIFIER.fullmatch(value):
        raise RowError(f"{field} = {value!r}: must be an id of letters, digits, _ and -")
    return value


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
        problem = row.problem
        if problem is None:
            try:
                yield make(row, *args, **kwargs)
            except RowError as error:
                problem = str(error)
        if problem is not None:
            yield Item(row.place, split, problem=f"{row.place}: {problem}")


@lru_cache(maxsize=4096)
def label(task: str, name: str) -> Annotation:
    """Return the label of a whole file; equal ones are one object, since lists have millions."""
    return Annotation(task, name)


@lru_cache(maxsize=64)
def fold_label(fold: int, split: Split) -> Annotation:
    """Return what a whole file is for in an official fold: `train` or `test`."""
    return Annotation(FOLD_TASK, f"{fold}:{split}")


def stem_of(path: str) -> str:
    """Return a path without suffix: media are often converted, so that theirs says little."""
    return str(PurePosixPath(path).with_suffix("")) if PurePosixPath(path).name else path
