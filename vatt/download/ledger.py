"""The ledger: what became of every file that was asked for, kept over kills and restarts.

One SQLite database, `.cache/download/ledger.sqlite`: a change is there whole or not at all whenever
the process is killed, a million rows are opened without being rewritten, and Python brings it. It
is no output of the pipeline, since it holds times.
"""

import fcntl
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from vatt.core.errors import StageError
from vatt.download.remote_files import RemoteFile

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


@dataclass(slots=True)
class LedgerRow:
    """What the ledger knows of a file."""

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
        unknown = addresses.keys() - (names := {name for (name,) in known})
        with self._database:
            self._database.executemany(
                "DELETE FROM items WHERE folder = ? AND name = ?",
                [(folder, name) for name in names - addresses.keys()],
            )
            self._database.executemany(
                "INSERT INTO items (folder, name, address) VALUES (?, ?, ?)",
                [(folder, name, address) for name, address in addresses.items() if name in unknown],
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
    with (state_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError(
                f"{state_dir}: another download is running here; wait for it or stop it"
            ) from error
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
