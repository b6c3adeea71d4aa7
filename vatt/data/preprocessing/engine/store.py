"""The store of fragments: what became of each source file, kept under a digest of all that decides it.

An entry is a file `fragments/<first two digits of the key>/<key>`: the members of the segments as
they stand in a shard, the outcome as JSON, the length of the JSON (8 bytes), and a BLAKE2b of the
key and everything before (16 bytes).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, BinaryIO

from vatt.data.preprocessing.fragments import Outcome
from vatt.data.segment import Segment

LENGTH_BYTES = 8
DIGEST_BYTES = 16
CHUNK_BYTES = 1 << 20


class FragmentStore:
    """Entries appear whole or not at all; one that is damaged is taken for absent."""

    def __init__(self, folder: Path) -> None:
        self._fragments_dir = folder / "fragments"
        self.partial_dir = folder / "partial"
        """Where entries are being made."""

    def path_of(self, key: str) -> Path:
        """Return where the entry of a key is, or would be."""
        return self._fragments_dir / key[:2] / key

    def add(self, key: str, fragment_path: Path, outcome: Outcome) -> None:
        """Make a finished fragment an entry. The file is moved; without segments it may be missing.

        Raises:
            OSError: the disk is full or broken.
        """
        content = json.dumps(_to_json(outcome), default=_to_plain_number).encode()
        with fragment_path.open("ab" if outcome.segments else "wb") as file:
            file.write(content + len(content).to_bytes(LENGTH_BYTES))
        with fragment_path.open("r+b") as file:
            digest = _digest(key, file, fragment_path.stat().st_size)
            file.seek(0, os.SEEK_END)
            file.write(digest)
        path = self.path_of(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        fragment_path.replace(path)

    def read(self, key: str) -> Outcome | None:
        """Return the outcome of an entry, None if there is none or it is damaged.

        The offsets of its segments are those in the file of the entry.
        """
        try:
            with self.path_of(key).open("rb") as file:
                length = os.fstat(file.fileno()).st_size - DIGEST_BYTES
                if length < LENGTH_BYTES or _digest(key, file, length) != file.read(DIGEST_BYTES):
                    return None
                file.seek(length - LENGTH_BYTES)
                json_bytes = int.from_bytes(file.read(LENGTH_BYTES))
                file.seek(length - LENGTH_BYTES - json_bytes)
                return _from_json(json.loads(file.read(json_bytes)))
        except FileNotFoundError:
            return None

    def remove_all_but(self, keys: AbstractSet[str]) -> None:
        """Remove all entries of other keys, and what was left of entries that were not finished."""
        for path in self._fragments_dir.glob("??/*"):
            if path.name not in keys:
                path.unlink()
        self.remove_partial()

    def remove_partial(self) -> None:
        """Remove what killed processes left."""
        shutil.rmtree(self.partial_dir, ignore_errors=True)


def _digest(key: str, file: BinaryIO, length: int) -> bytes:
    """Return the BLAKE2b of a key and the first `length` bytes of a file, which is left there."""
    digest = hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES)
    while length and (chunk := file.read(min(length, CHUNK_BYTES))):
        digest.update(chunk)
        length -= len(chunk)
    return digest.digest()


def _to_json(outcome: Outcome) -> dict[str, Any]:
    rows = [vars(segment) for segment in outcome.segments]
    return outcome._asdict() | {"segments": rows}


def _from_json(content: dict[str, Any]) -> Outcome:
    segments = [Segment(**row) for row in content["segments"]]
    return Outcome(**content | {"segments": segments})


def _to_plain_number(value: Any) -> Any:
    """Return the Python number of a numpy one."""
    return value.item()
