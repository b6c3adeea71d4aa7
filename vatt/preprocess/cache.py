"""The store of fragments: what became of each source file, kept under a digest of all that decides it.

An entry is a file `fragments/<first two digits of the key>/<key>`: the members of the segments as
they stand in a shard, the outcome as JSON, the length of the JSON (8 bytes), and a BLAKE2b of the
key and everything before (16 bytes).

Digests of source files, remembered, so that a file that did not change is not read again.

What decides a fragment: the file, its row of the manifest, the parameters and the code.
"""

import errno
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av

from vatt.core.code import digest_code
from vatt.corpus.index import Segment
from vatt.corpus.manifest import ManifestEntry
from vatt.params import AUDIO_RATE_HZ, PreprocessParams
from vatt.preprocess.fragments import Outcome

CODE = (
    *("media", "corpus/index.py", "corpus/manifest.py", "preprocess/cuts.py"),
    *("preprocess/fragments.py", "preprocess/listening.py", "preprocess/measures.py"),
)
"""What decides the bytes of a fragment, besides the values of its row and of the parameters."""
LIBRARIES = ("av", "imagehash", "numpy", "onnxruntime", "pillow", "scipy", "silero-vad")
"""Packages that decide what a fragment holds."""
NO_EFFECT = {"segments_per_shard", "vocab_size", "vocabulary", "time_limit_s"}
"""Parameters that play no part in the segments of a file."""


@cache
def digest_fragment_code() -> str:
    """Return a digest of the modules and the libraries that make fragments, as they are here."""
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    return digest_code(*CODE, beside=(*versions, av.ffmpeg_version_info, str(AUDIO_RATE_HZ)))


def make_key(
    entry: ManifestEntry, digests: tuple[str, str | None], params: PreprocessParams, code: str
) -> str:
    """Return the key of the fragment of a file: another one whenever its bytes may be others.

    `digests` are those of the file and of its captions, `code` that of the modules.
    """
    parts = [asdict(entry), digests, params.model_dump(mode="json", exclude=NO_EFFECT), code]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


class Fingerprint(NamedTuple):
    """What the file system says of a file. As in DVC, the same values mean the same content."""

    num_bytes: int
    modified_ns: int
    inode: int


class FileDigest(NamedTuple):
    """The content of a file by its BLAKE2b, and the fingerprint that it had before it was read."""

    name: str
    """Its path below the folder of all files."""
    fingerprint: Fingerprint
    digest: str


def read_fingerprint(path: Path) -> Fingerprint:
    """Ask the file system.

    Raises:
        OSError: the file is missing or cannot be reached.
    """
    status = path.stat()
    return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ino)


def digest_file(folder: Path, name: str) -> FileDigest:
    """Read a file of a folder and return its digest.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    path = folder / name
    fingerprint = read_fingerprint(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return FileDigest(name, fingerprint, digest)


class DigestMemory:
    """Digests of the files of a folder, in an SQLite file at `path`.

    One that is damaged or lost costs reading the files once more.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self._folder = folder
        try:
            self._database = self._open()
        except sqlite3.DatabaseError:
            for end in ("", "-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)
            self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        # Each statement is a transaction of its own. What a power cut takes can be found again.
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "CREATE TABLE IF NOT EXISTS files "
            "(name BLOB PRIMARY KEY, num_bytes INT, modified_ns INT, inode INT, digest TEXT)"
        )
        return database

    def recall(self, name: str) -> str | None:
        """Return the digest of a file if it is known and the file has the same fingerprint.

        Raises:
            OSError: the file is missing or cannot be reached.
        """
        found = self._database.execute(
            "SELECT digest FROM files "
            "WHERE name = ? AND num_bytes = ? AND modified_ns = ? AND inode = ?",
            (_encode(name), *read_fingerprint(self._folder / name)),
        ).fetchone()
        return found[0] if found else None

    def learn(self, file: FileDigest) -> None:
        """Remember the digest of a file.

        Raises:
            OSError: the disk is full or broken.
        """
        try:
            self._database.execute(
                "REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                (_encode(file.name), *file.fingerprint, file.digest),
            )
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error), str(self._path)) from error

    def forget_all_but(self, names: Collection[str]) -> None:
        """Drop the files that do not belong to the corpus any more."""
        kept = {_encode(name) for name in names}
        known = self._database.execute("SELECT name FROM files").fetchall()
        gone = [(name,) for (name,) in known if name not in kept]
        if gone:
            self._database.execute("BEGIN")
            self._database.executemany("DELETE FROM files WHERE name = ?", gone)
            self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


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
