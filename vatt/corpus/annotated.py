"""The sentences that people wrote about parts of files, with their times, which the index lacks.

The index says which descriptions hold for a segment of fixed length. Retrieval as published
searches among the annotated parts themselves, from their starts to their ends.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vatt.core.errors import StageError
from vatt.corpus.manifest import STRICT, ManifestEntry, Split, name_problem

PARTS_NAME = "annotated_parts.jsonl"


@dataclass(frozen=True, config=STRICT)
class AnnotatedPart:
    """A part of a file, which may not have come, and a sentence about it."""

    source: str
    video_id: str
    split: Split
    start_s: float
    end_s: float | None
    """Null stands for the end of the file."""
    text: str


ROW = TypeAdapter(AnnotatedPart)


def list_parts(entry: ManifestEntry) -> list[AnnotatedPart]:
    """Return the described parts of a file, none where no description has times.

    Beside such, a description without times is about the whole file.
    """
    notes = [note for note in entry.annotations if note.task == "caption" and note.text]
    if all(note.start_s is None and note.end_s is None for note in notes):
        return []
    return [
        AnnotatedPart(
            entry.source, entry.video_id, entry.split, note.start_s or 0.0, note.end_s, note.text
        )
        for note in notes
        if note.text
    ]


def write_parts(preprocess_dir: Path, parts: Iterable[AnnotatedPart]) -> None:
    """Write the parts of a corpus, sorted; without any there is no file."""
    rows = [dataclasses.asdict(part) for part in parts]
    rows.sort(key=lambda row: (row["source"], row["video_id"], row["start_s"]))
    if rows:
        with (preprocess_dir / PARTS_NAME).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_parts(preprocess_dir: Path, split: str) -> list[AnnotatedPart]:
    """Return the parts of a split; none where the corpus has no such file.

    Raises:
        StageError: the file cannot be read, or a line is no row; the file and line are named.
    """
    path, parts = preprocess_dir / PARTS_NAME, []
    try:
        # Only newlines end a line, because texts may hold other line ends.
        with path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                parts.append(ROW.validate_json(line))  # noqa: PERF401 - the error names the line
    except FileNotFoundError:
        return []
    except ValidationError as error:
        place = f"{path} line {len(parts) + 1}"
        raise StageError(
            f"{place}: {name_problem(error)}; run `python -m vatt preprocess` again"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: cannot be read: {error}") from error
    return [part for part in parts if part.split == split]
