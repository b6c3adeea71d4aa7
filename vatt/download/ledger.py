"""The ledger: what became of every file that was asked for, kept over kills and restarts.

One SQLite database, `.cache/download/ledger.sqlite`: a change is there whole or not at all whenever
the process is killed, a million rows are opened without being rewritten, and Python brings it. It
is no output of the pipeline, since it holds times.

What can be fetched over the network, a file, an archive, a video of a site, and how that fails.
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
from urllib.parse import urlsplit

from vatt.core.errors import StageError

MAX_NAME_BYTES, MAX_PATH = 240, 1000
"""What file systems take, with room for the endings of files in the making."""


@dataclass(frozen=True)
class RemoteFile:
    """A file behind an http address."""

    name: str
    """The POSIX path below the folder that it is fetched to."""
    address: str
    sha256: str | None = None
    """What its bytes must give, in hexadecimal digits; or `md5`, where only that is published."""
    md5: str | None = None

    @property
    def host(self) -> str:
        """Server and port of the address: what limits are kept for."""
        return urlsplit(self.address).netloc.rpartition("@")[2].lower()

    @property
    def identity(self) -> str:
        """What the bytes depend on: other bytes are fetched anew."""
        return self.address

    def problem(self) -> str | None:
        """Say what is wrong with the name or the address, if anything is."""
        if not stays_inside(self.name):
            return "the name leaves the folder"
        try:
            longest = max(len(part.encode()) for part in self.name.split("/"))
        except UnicodeEncodeError:
            return "the name cannot be written in UTF-8"
        if longest > MAX_NAME_BYTES or len(self.name) > MAX_PATH:
            return f"the name is too long: {MAX_NAME_BYTES} bytes a part, {MAX_PATH} letters in all"
        try:
            parts = urlsplit(self.address)
            hostname, _ = parts.hostname, parts.port
        except ValueError as error:
            return f"the address cannot be read: {error}"
        if parts.scheme not in ("http", "https") or not hostname:
            return f"the address must begin with http:// or https:// and a host: {self.address!r}"
        return None


@dataclass(frozen=True)
class RemoteArchive(RemoteFile):
    """A zip, tar or compressed tar; `name` is the folder that it is unpacked to."""


@dataclass(frozen=True)
class SiteVideo(RemoteFile):
    """A video behind the address of its page, fetched by yt-dlp."""

    start_s: float | None = None
    end_s: float | None = None
    """The section to fetch; both or none, for all of it."""

    @property
    def identity(self) -> str:
        """Address and section."""
        return f"{self.address}#t={self.start_s},{self.end_s}" if self.end_s else self.address


def stays_inside(name: str) -> bool:
    """Whether a relative POSIX path names something below its folder."""
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


class FetchError(Exception):
    """One try failed; another one may do better."""

    host_failed = False
    """Whether the host is to blame, so that its other files should wait, too."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        """How long the host asks to be left alone, if it says."""


class HostError(FetchError):
    """The host did not answer, or with an error of its own."""

    host_failed = True


class GoneError(FetchError):
    """The file is not to be had: asking again is no use."""


class StoppedError(Exception):
    """Fetching was stopped from outside; what came so far is kept."""


def describe(error: BaseException) -> str:
    """Say in one line what went wrong, without the address."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}".splitlines()[0]


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
