"""Digests of source files, remembered, so that a file that did not change is not read again."""

import errno
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from vatt.core.files import digest_file


class FileDigest(NamedTuple):
    """The content of a file by its BLAKE2b, and what the file system said before it was read.

    As in DVC, the same size, time and inode mean the same content.
    """

    name: str
    """The path below the folder of all files."""
    num_bytes: int
    modified_ns: int
    inode: int
    digest: str


def read_digest(folder: Path, name: str) -> FileDigest:
    """Read a file of a folder and return its digest.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    status = _read_status(folder / name)
    return FileDigest(name, *status, digest_file(folder / name))


class DigestMemory:
    """Digests of the files of a folder, in an SQLite file at `path`.

    A memory that is damaged or lost costs reading the files once more.
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
        """Return the digest of a file if it is known and the file has not changed since.

        Raises:
            OSError: the file is missing or cannot be reached.
        """
        found = self._database.execute(
            "SELECT digest FROM files "
            "WHERE name = ? AND num_bytes = ? AND modified_ns = ? AND inode = ?",
            (_encode(name), *_read_status(self._folder / name)),
        ).fetchone()
        return found[0] if found else None

    def learn(self, file: FileDigest) -> None:
        """Remember the digest of a file.

        Raises:
            OSError: the disk is full or broken.
        """
        try:
            self._database.execute(
                "REPLACE INTO files VALUES (?, ?, ?, ?, ?)", (_encode(file.name), *file[1:])
            )
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error), str(self._path)) from error

    def forget_all_but(self, names: Collection[str]) -> None:
        """Drop the files that do not belong to the corpus any more."""
        kept = {_encode(name) for name in names}
        known = self._database.execute("SELECT name FROM files").fetchall()
        self._database.execute("BEGIN")
        self._database.executemany(
            "DELETE FROM files WHERE name = ?", (row for row in known if row[0] not in kept)
        )
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _read_status(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
