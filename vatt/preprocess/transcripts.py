"""Transcripts: what a speech recogniser wrote of the sound of a file, and the store that keeps it.

To transcribe takes far longer than to cut, so a transcript is kept apart from the fragment of its
file: other parameters of the pictures leave it as it is.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vatt.corpus.manifest import ManifestEntry

TRANSCRIPTS_NAME = "transcripts.jsonl"


@dataclass(frozen=True)
class Word:
    """A word, or a few characters where a language has no spaces, and when it is said."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class SpokenLine:
    """Words that belong together; they become one caption."""

    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...]


@dataclass(frozen=True)
class LeftOut:
    """A text that the recogniser wrote and nobody is likely to have said."""

    start_s: float
    end_s: float
    text: str
    reason: str


@dataclass(frozen=True)
class Transcript:
    """What is said in a file, in order of time."""

    language: str | None
    """Whisper's code of the language, null where nobody speaks."""
    language_probability: float | None
    """How sure the recogniser is of it; null where the parameters name the language."""
    lines: tuple[SpokenLine, ...]
    left_out: tuple[LeftOut, ...]


TRANSCRIPT = TypeAdapter(Transcript)


def append_transcript(path: Path, entry: ManifestEntry, row: Mapping[str, Any]) -> None:
    """Append the transcript of a row of the manifest, as an object, to a file of JSON lines."""
    named = {"source": entry.source, "video_id": entry.video_id}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**named, **row}, ensure_ascii=False) + "\n")


def count_lines(row: Mapping[str, Any]) -> Counter[str]:
    """Return what `preprocess` reports of a transcript, as an object."""
    counts = Counter({"transcribed": 1, "spoken_lines": len(row["lines"])})
    language = row["language"]
    counts[f"files_in_{language}" if language else "files_without_speech"] += 1
    for left_out in row["left_out"]:
        counts[f"lines_{left_out['reason'].replace(' ', '_')}"] += 1
    return counts


class TranscriptStore:
    """Transcripts under keys, in a file each: a digest of the key and of the rest, then JSON.

    They appear whole or not at all; one that is damaged is taken for absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, key: str) -> Path:
        """Return where the transcript of a key is, or would be."""
        return self.folder / key[:2] / key

    def add(self, key: str, transcript: Transcript, folder: Path) -> None:
        """Write a transcript to a folder of the caller's own on this disk, and move it here.

        Equal files are transcribed at the same time, so that a partial file here would be shared.

        Raises:
            OSError: the disk is full or broken.
        """
        content = TRANSCRIPT.dump_json(transcript)
        partial, path = folder / f"{key}.transcript", self.path_of(key)
        partial.write_bytes(_digest(key, content) + content)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(path)

    def read(self, key: str) -> Transcript | None:
        """Return a transcript, None if there is none or it is damaged."""
        try:
            stored = self.path_of(key).read_bytes()
        except FileNotFoundError:
            return None
        digest, content = stored[:16], stored[16:]
        if digest != _digest(key, content):
            return None
        try:
            return TRANSCRIPT.validate_json(content)
        except ValidationError:  # of an older version
            return None

    def remove_all_but(self, keys: AbstractSet[str]) -> None:
        """Remove the transcripts of other keys."""
        for path in self.folder.glob("??/*"):
            if path.name not in keys:
                path.unlink()


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.blake2b(key.encode() + content, digest_size=16).digest()
