"""Labels of a folder's files: a CSV with the columns path,task[,label,start,end,text,split]."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import get_args

from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation, Split
from vatt.download.items import Row, RowError
from vatt.media.captions import CaptionError, decode_text

NEEDED_COLUMNS = ("path", "task")
NARRATION_TASK = "audio_speech"
"""Rows of this task with a text and times are what is said: captions, where no caption file is."""
SHOWN_PROBLEMS = 10


@dataclass
class FileLabels:
    """All that the CSV says about one file."""

    place: str
    """File and line of the first row."""
    annotations: list[Annotation] = field(default_factory=list)
    split: Split | None = None

    def narration(self) -> list[tuple[float, float, str]]:
        """Return the rows that hold what is said: start and end in seconds, text."""
        return [
            (row.start_s, row.end_s, row.text)
            for row in self.annotations
            if row.task == NARRATION_TASK and row.text
            if row.start_s is not None and row.end_s is not None
        ]


def read_labels(content: bytes, name: str) -> dict[str, FileLabels]:
    """Read a labels CSV into what it says about each path.

    Columns beyond those above are ignored. A row without label and text only names a file.

    Raises:
        StageError: the file is not CSV, a column is missing, or rows are wrong; it names the file,
            the lines, the fields and what is accepted.
    """
    labels: dict[str, FileLabels] = {}
    problems = []
    try:
        rows = csv.DictReader(io.StringIO(decode_text(content), newline=""), restval="")
        missing = [column for column in NEEDED_COLUMNS if column not in (rows.fieldnames or [])]
        if missing:
            raise StageError(
                f"{name}: has no column {', '.join(missing)}; its header must hold path,task "
                f"and may hold label,start,end,text,split; it is {','.join(rows.fieldnames or [])}"
            )
        for fields in rows:
            texts = {key: (fields.get(key) or "").strip() for key in fields if key}
            row = Row(f"{name} line {rows.line_num}", rows.line_num, texts)
            try:
                _add_row(labels, row)
            except RowError as error:
                problems.append(f"{row.place}: {error}")
    except (csv.Error, CaptionError) as error:
        raise StageError(f"{name}: is not CSV: {error}") from error
    if problems:
        more = f"\nand {len(problems) - SHOWN_PROBLEMS} more" * (len(problems) > SHOWN_PROBLEMS)
        raise StageError("\n".join(problems[:SHOWN_PROBLEMS]) + more)
    return labels


def _add_row(labels: dict[str, FileLabels], row: Row) -> None:
    """Check one row and add it to the labels of its file."""
    fields: Mapping[str, str] = row.fields
    path, task = str(PurePosixPath(row.text("path"))), row.text("task")
    start_s = end_s = None
    if fields.get("start") or fields.get("end"):
        if not (fields.get("start") and fields.get("end")):
            raise RowError("start and end: give both, or none for the whole file")
        start_s, end_s = row.part_s("start", "end")
    file = labels.setdefault(path, FileLabels(row.place))
    split = _read_split(fields.get("split"))
    if split and file.split not in (None, split):
        raise RowError(f"split = {split!r}: {path} is in {file.split!r} by an earlier line")
    file.split = split or file.split
    label, text = fields.get("label") or None, fields.get("text") or None
    if label or text:
        file.annotations.append(Annotation(task, label, start_s, end_s, text))


def _read_split(value: str | None) -> Split | None:
    if value and value not in get_args(Split):
        raise RowError(f"split = {value!r}: must be {', '.join(get_args(Split))} or empty")
    return value or None  # type: ignore[return-value]
