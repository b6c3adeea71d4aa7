"""What became of every file that was asked for, and where its bytes lie, over kills and restarts.

The ledger is one SQLite database, `.cache/download/ledger.sqlite`: a change is there whole or not
at all whenever the process is killed, a million rows are opened without being rewritten, and Python
brings it. It is no output of the pipeline, since it holds times.
"""

import errno
import hashlib
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from vatt.core.disk import name_disk_errors, require_space
from vatt.core.errors import StageError
from vatt.core.files import atomic_path, hold_lock
from vatt.download.archives import ArchiveError, unpack
from vatt.download.remote_files import FetchError, GoneError, RemoteArchive, RemoteFile

VERSION = 1
TABLE = """
CREATE TABLE IF NOT EXISTS items (
    number INTEGER PRIMARY KEY,
    folder TEXT NOT NULL,
    name TEXT NOT NULL,
    address TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued',
    reason TEXT,
    gone INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    num_bytes INTEGER NOT NULL DEFAULT 0,
    total_bytes INTEGER,
    validator TEXT,
    digest TEXT,
    changed_at REAL NOT NULL DEFAULT 0,
    UNIQUE (folder, name)
)
"""


@dataclass(slots=True)
class LedgerRow:
    """What the ledger knows of a file."""

    number: int
    """Names the partial file: names from outside never do."""
    address: str
    state: Literal["queued", "partial", "done", "failed"] = "queued"
    reason: str | None = None
    """Why it failed, or the last try did."""
    gone: bool = False
    """Whether the failure is for good."""
    tries: int = 0
    num_bytes: int = 0
    """What is certainly on the disk."""
    total_bytes: int | None = None
    validator: str | None = None
    """The strong ETag or the date of the bytes: the rest of other bytes must not be appended."""
    digest: str | None = None
    """SHA-256 of all bytes, in hexadecimal digits."""
    changed_at: float = 0.0
    """When the row changed, in seconds since 1970; 0 for a file that was never asked for."""

    def forget(self) -> None:
        """Begin anew: what came is of no use."""
        self.state, self.num_bytes, self.total_bytes = "queued", 0, None
        self.validator = self.digest = None


COLUMNS = [field.name for field in fields(LedgerRow)]
READ = f"SELECT name, {', '.join(COLUMNS)} FROM items WHERE folder = ?"  # noqa: S608
SET = ", ".join(f"{name} = :{name}" for name in COLUMNS)
WRITE = f"UPDATE items SET {SET} WHERE number = :number"  # noqa: S608


class Ledger:
    """The open database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Prepare the database; sqlite3.DatabaseError says that it is no ledger of this version."""
        self._database = database
        database.execute("PRAGMA journal_mode = WAL")  # readers and this writer do not wait
        database.execute("PRAGMA synchronous = NORMAL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"its version is {version}, not {VERSION}")
        with database:
            database.execute(TABLE)
            database.execute(f"PRAGMA user_version = {VERSION}")

    def open_rows(self, folder: str, files: Iterable[RemoteFile]) -> dict[str, LedgerRow]:
        """Return the row of each file, by name; rows of this folder for no file are removed."""
        addresses = {file.name: file.identity for file in files}
        known = self._database.execute("SELECT name FROM items WHERE folder = ?", (folder,))
        old = [(folder, name) for (name,) in known if name not in addresses]
        new = [(folder, name, address) for name, address in addresses.items()]
        with self._database:
            self._database.executemany("DELETE FROM items WHERE folder = ? AND name = ?", old)
            self._database.executemany(
                "INSERT OR IGNORE INTO items (folder, name, address) VALUES (?, ?, ?)", new
            )
        return {name: LedgerRow(*row) for name, *row in self._database.execute(READ, (folder,))}

    def record(self, row: LedgerRow) -> None:
        """Write a row."""
        row.changed_at = time.time()
        with self._database:
            self._database.execute(WRITE, asdict(row))


@contextmanager
def open_ledger(state_dir: Path) -> Iterator[Ledger]:
    """Open the ledger of a folder, for this process alone; make it where there is none.

    Raises:
        StageError: another process has it open; or it cannot be used, or not be written.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / "ledger.sqlite"
    try:
        lock = hold_lock(state_dir / "lock", waits=False)
    except BlockingIOError as error:
        raise StageError(
            f"{state_dir}: another download is running here; wait for it or stop it"
        ) from error
    with lock:
        database = sqlite3.connect(path, timeout=30)  # somebody may be reading it
        try:
            try:
                ledger = Ledger(database)
            except sqlite3.DatabaseError as error:
                raise StageError(
                    f"{path}: cannot be used: {error}; remove it: files that are there stay"
                ) from error
            yield ledger
        except sqlite3.Error as error:
            raise StageError(f"{path}: cannot be written: {error}") from error
        finally:
            database.close()


@dataclass(frozen=True)
class Arrivals:
    """The files of a source as they arrive: in part below the ledger's folder, whole in its own."""

    folder: Path
    partial_dir: Path
    min_free_gb: float

    def partial(self, row: LedgerRow) -> Path:
        """Return where the bytes of a file gather: named by the ledger, never from outside."""
        return self.partial_dir / f"{row.number}.partial"

    def site_dir(self, row: LedgerRow) -> Path:
        """Return where the video of a site gathers: it may come in several files."""
        return self.partial_dir / f"{row.number}.site"

    def holds(self, file: RemoteFile, row: LedgerRow) -> bool:
        """Whether a file that is done is here; a move that a kill prevented is made up for."""
        target, partial = self.folder / file.name, self.partial(row)
        if isinstance(file, RemoteArchive):
            return target.is_dir()
        if file.sha256 and row.digest and file.sha256.lower() != row.digest:
            return False
        if _has_size(partial, row):  # also where the old bytes are as many
            self.move(partial, target)
        return _has_size(target, row)

    def adopt(self, file: RemoteFile, row: LedgerRow) -> bool:
        """Take a file that is here without a row in the ledger as done, if its digest agrees."""
        target = self.folder / file.name
        if isinstance(file, RemoteArchive):
            here = target.is_dir()
        else:
            here = target.is_file() and not target.is_symlink() and not _check(file, target)
        if here:
            row.state, row.num_bytes = "done", target.stat().st_size
            row.digest = file.sha256.lower() if file.sha256 else None
            self.partial(row).unlink(missing_ok=True)  # of another file that had this number
        return here

    def keep(self, file: RemoteFile, row: LedgerRow) -> Path:
        """Check what came whole; the row then calls it done. An archive is unpacked here.

        Raises:
            FetchError: it is not what was asked for; nothing of it is kept.
            StageError: the disk is full.
        """
        partial, target = self.partial(row), self.folder / file.name
        if problem := _check(file, partial):
            self.drop(row)
            # The same wrong bytes twice are no accident of the way.
            raise GoneError(problem) if row.reason == problem else FetchError(problem)
        row.digest = file.sha256.lower() if file.sha256 else _digest(partial, "sha256")
        if isinstance(file, RemoteArchive):
            try:
                unpack(partial, target, self.min_free_gb)
            except ArchiveError as error:
                self.drop(row)
                raise GoneError(f"the archive is refused: {error}") from error
        row.state, row.reason, row.gone = "done", None, False
        return target

    def drop(self, row: LedgerRow) -> None:
        """Forget what came of a file."""
        row.forget()
        self.partial(row).unlink(missing_ok=True)
        shutil.rmtree(self.site_dir(row), ignore_errors=True)

    def move(self, partial: Path, target: Path) -> None:
        """Move a file to its place, also to another disk; it appears whole."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            require_space(target.parent, partial.stat().st_size, self.min_free_gb)
            with name_disk_errors(target), atomic_path(target) as copy:
                shutil.copyfile(partial, copy)
            partial.unlink()

    def remove_leftovers(self, rows: Iterable[LedgerRow]) -> None:
        """Remove what came in part of files that are done or no longer asked for."""
        unfinished = {str(row.number) for row in rows if row.state != "done"}
        for path in self.partial_dir.iterdir():
            if path.stem not in unfinished:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _check(file: RemoteFile, path: Path) -> str | None:
    """Return how a file differs from what was published of it."""
    for kind, published in (("sha256", file.sha256), ("md5", file.md5)):
        if published and (found := _digest(path, kind)) != published.lower():
            return f"its {kind} is {found}, not {published}"
    return None


def _has_size(path: Path, row: LedgerRow) -> bool:
    """Whether a path holds a file of the size that the ledger knows."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size == row.num_bytes
