"""The manifest of the corpus: one row for every video that a source offers, failures included."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from vatt.core.errors import StageError
from vatt.core.files import atomic_path

MANIFEST_NAME = "manifest.jsonl"

MISSING = "missing: "
"""Begins the reason of a failed row whose file nobody has, which says nothing of the corpus."""

Split = Literal["train", "validation", "test"]

FOLD_TASK = "fold"
"""The task whose labels say what a file is for in each official fold of its data set."""

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=STRICT)
class Annotation:
    """What a person wrote about a file or a part of it; null times mean the whole file."""

    task: str
    """Two names are no tasks: "caption" has a description in `text`, which is a query of the
    evaluation and never narration; FOLD_TASK has labels such as "2:test", for testing in fold 2."""
    label: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    text: str | None = None


@dataclass(frozen=True, config=STRICT)
class ManifestEntry:
    """One video or sound file of a source."""

    source: str
    video_id: str
    """The path below the source's folder, unique within the source."""
    split: Split
    status: Literal["ok", "failed"] = "ok"
    path: str | None = None
    """The POSIX path relative to the folder of the manifest; null when failed."""
    reason: str | None = None
    """Why it failed."""
    captions_path: str | None = None
    """The same for the captions; null if there are none."""
    transcribe: bool = False
    """Whether a speech recogniser hears what is said, where the file itself holds no captions."""
    caption_problem: str | None = None
    """Why the captions could not be fetched; the video itself is fine."""
    annotations: tuple[Annotation, ...] = ()

    @model_validator(mode="after")
    def _check_fields_agree(self) -> Self:
        if self.status == "ok" and (self.path is None or self.reason is not None):
            raise ValueError("status is ok: path must be given and reason must be null")
        if self.status == "failed" and (self.path is not None or self.reason is None):
            raise ValueError("status is failed: path must be null and reason must be given")
        return self


ROW = TypeAdapter(ManifestEntry)


def write_manifest(download_dir: Path, entries: Iterable[ManifestEntry]) -> None:
    """Write the manifest of a download folder, sorted by source and video id."""
    ordered = sorted(entries, key=lambda entry: (entry.source, entry.video_id))
    with (
        atomic_path(download_dir / MANIFEST_NAME) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as file,
    ):
        for entry in ordered:
            row = dataclasses.asdict(entry)
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")


def read_manifest(download_dir: Path) -> list[ManifestEntry]:
    """Read the manifest of a download folder.

    Raises:
        StageError: there is no manifest; a line is not a row (the file, line and field are named);
            a path leaves the folder, also by a symbolic link; or an id is given twice.
    """
    path = download_dir / MANIFEST_NAME
    try:
        # Only newlines end a line, because texts may hold other line ends.
        with path.open(encoding="utf-8", newline="\n") as lines:
            entries = [
                _read_line(line, f"{path} line {number}", download_dir)
                for number, line in enumerate(lines, start=1)
                if line != "\n"
            ]
    except FileNotFoundError as error:
        raise StageError(f"{path}: does not exist; run `python -m vatt download` first") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: cannot be read: {error}") from error
    counts = Counter((entry.source, entry.video_id) for entry in entries)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise StageError(f"{path}: video_id is given more than once: {repeated[0]}")
    return entries


def _read_line(line: str, place: str, download_dir: Path) -> ManifestEntry:
    """Check one line of the manifest."""
    try:
        entry = ROW.validate_json(line)
    except ValidationError as error:
        raise StageError(f"{place}: {name_problem(error)}") from error
    for field in ("path", "captions_path"):
        value = getattr(entry, field)
        parts = PurePosixPath(value or "").parts
        is_plain = parts and parts[0] != "/" and ".." not in parts and "\0" not in value
        # Symbolic links are followed, because they may lead out as well.
        root = download_dir.resolve()
        if value is not None and not (is_plain and (root / value).resolve().is_relative_to(root)):
            raise StageError(f"{place}: {field} = {value!r}: leaves the folder {download_dir}")
    return entry


def name_problem(error: ValidationError) -> str:
    """Return the first problem of a row: its field, the value there, and what is accepted."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"]) or "row"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field} = {problem['input']!r}: {message}"
