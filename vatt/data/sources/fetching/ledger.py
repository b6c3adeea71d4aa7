"""The ledger: what became of every file that was asked for, kept over kills and restarts.

One SQLite database, `.cache/download/ledger.sqlite`: a change is there whole or not at all whenever
the process is killed, a million rows are opened without being rewritten, and Python brings it. It
is no output of the pipeline, since it holds times.
"""

import fcntl
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from vatt.data.sources.fetching.remote_file import RemoteFile
from vatt.params import StageError

VERSION = 1
State = Literal["queued", "partial", "done", "failed"]

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
READ = """
SELECT name, number, address, state, reason, gone, tries, num_bytes, total_bytes, validator, digest,
    changed_at
FROM items WHERE folder = ?
"""
WRITE = """
UPDATE items SET address = :address, state = :state, reason = :reason, gone = :gone, tries = :tries,
    num_bytes = :num_bytes, total_bytes = :total_bytes, validator = :validator, digest = :digest,
    changed_at = :changed_at
WHERE number = :number
"""


@dataclass(slots=True)
class Item:
    """A row of the ledger."""

    number: int
    """Names the partial file: names from outside never do."""
    address: str
    state: State = "queued"
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
    """When the row changed, in seconds since 1970."""

    def forget(self) -> None:
        """Begin anew: what came is of no use."""
        self.state, self.num_bytes, self.total_bytes = "queued", 0, None
        self.validator = self.digest = None


class Ledger:
    """The database, for all threads of one process."""

    def __init__(self, path: Path) -> None:
        """Open the ledger; make it where there is none.

        Raises:
            StageError: it is no ledger, or one of another version of this program.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._rows = sqlite3.connect(path, check_same_thread=False, timeout=30)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._rows.close()
            raise StageError(
                f"{path}: cannot be used: {error}; remove it: files that are there stay"
            ) from error

    def _prepare(self) -> None:
        self._rows.execute("PRAGMA journal_mode = WAL")  # readers and this writer do not wait
        self._rows.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._rows.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"its version is {version}, not {VERSION}")
        with self._rows:
            self._rows.execute(TABLE)
            self._rows.execute(f"PRAGMA user_version = {VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def open_items(self, folder: str, files: Iterable[RemoteFile]) -> dict[str, Item]:
        """Return the row of each file, by name; rows of this folder for no file are removed."""
        addresses = {file.name: file.identity for file in files}
        known = {row[0]: Item(*row[1:]) for row in self._rows.execute(READ, (folder,))}
        with self._lock, self._rows:
            self._rows.executemany(
                "DELETE FROM items WHERE number = ?",
                [(item.number,) for name, item in known.items() if name not in addresses],
            )
            self._rows.executemany(
                "INSERT INTO items (folder, name, address) VALUES (?, ?, ?)",
                [(folder, name, addresses[name]) for name in addresses if name not in known],
            )
            numbers = self._rows.execute(
                "SELECT name, number FROM items WHERE folder = ?", (folder,)
            )
            return {
                name: known.get(name) or Item(number, addresses[name]) for name, number in numbers
            }

    def record(self, item: Item) -> None:
        """Write a row."""
        item.changed_at = time.time()
        with self._lock, self._rows:
            self._rows.execute(WRITE, asdict(item))


@contextmanager
def open_ledger(state_dir: Path) -> Iterator[Ledger]:
    """Open the ledger of a folder, for this process alone.

    Raises:
        StageError: another process has it open; or it cannot be used, or not be written.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError(
                f"{state_dir}: another download is running here; wait for it or stop it"
            ) from error
        path = state_dir / "ledger.sqlite"
        try:
            with Ledger(path) as ledger:
                yield ledger
        except sqlite3.Error as error:
            raise StageError(f"{path}: cannot be written: {error}") from error
