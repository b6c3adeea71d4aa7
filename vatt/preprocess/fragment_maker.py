"""Finding or making the fragment of each source file, the largest first, in a pool of processes.

A file that did not change since the last run is not even read: its digest is remembered.
"""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from vatt.core.errors import StageError
from vatt.core.files import digest_file
from vatt.core.pool import Lost, Pool, StallLimit, work_through
from vatt.corpus.manifest import ManifestEntry
from vatt.params import PreprocessParams
from vatt.preprocess.fragments import (
    FragmentStore,
    Outcome,
    digest_fragment_code,
    key_of,
    make_key,
    write_fragment,
)

MAX_READS = 3


class FileDigest(NamedTuple):
    """The content of a file by its BLAKE2b, and what the file system said before it was read."""

    name: str
    """The path below the folder of all files."""
    status: tuple[int, int, int]
    """The bytes, the time of the last change in ns, and the inode: as in DVC, the same three mean
    the same content."""
    digest: str


def read_digest(folder: Path, name: str) -> FileDigest:
    """Read a file of a folder and return its digest.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    status = _read_status(folder / name)
    return FileDigest(name, status, digest_file(folder / name))


class DigestMemory:
    """Digests of the files of a folder, in an SQLite file at `path`.

    A memory that is damaged or lost costs reading the files once more.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self._path, self._folder = path, folder
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
        row = (_encode(file.name), *file.status, file.digest)
        try:
            self._database.execute("REPLACE INTO files VALUES (?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error), str(self._path)) from error

    def forget_all_but(self, names: Collection[str]) -> None:
        """Drop the files that do not belong to the corpus any more."""
        kept = {_encode(name) for name in names}
        known = self._database.execute("SELECT name FROM files").fetchall()
        left = [row for row in known if row[0] not in kept]
        self._database.execute("BEGIN")
        self._database.executemany("DELETE FROM files WHERE name = ?", left)
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _read_status(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


class Finished(NamedTuple):
    """Where the outcome of a file is: in the store, or here if another run may do better."""

    key: str
    """The key of its entry in the store; empty if there is none."""
    reason: str | None = None
    """Why there is no entry."""
    media_s: float = 0.0
    """The length of all segments."""
    digests: tuple[FileDigest, ...] = ()
    """The digests of the file and its captions, where they were read."""


class FragmentMaker:
    """Finds the fragments of rows of the manifest in a store, and makes those that it lacks.

    What is kept in `store_dir` is a cache: any of it may be lost or damaged at any time.
    """

    def __init__(
        self,
        download_dir: Path,
        store_dir: Path,
        params: PreprocessParams,
        open_pool: Callable[[Callable[[ManifestEntry], Finished]], Pool],
    ) -> None:
        store_dir.mkdir(parents=True, exist_ok=True)
        self._download_dir, self._params, self._open_pool = download_dir, params, open_pool
        self._store = FragmentStore(store_dir)
        self._store.remove_partial()
        self._code = digest_fragment_code()
        self._memory = DigestMemory(store_dir / "digests.sqlite", download_dir)

    def make(
        self, entries: Sequence[ManifestEntry]
    ) -> Iterator[tuple[ManifestEntry, Outcome, Path]]:
        """Make what the store lacks of these rows; only what is new or changed is decoded.

        Then yield each row, its outcome, and the file with the members of its segments, if any. At
        the end what these rows do not need is removed from the store: it keeps the last complete
        run.

        Raises:
            OSError: the disk is full or broken. What was finished is not lost.
        """
        keys = set()
        for entry, result in zip(entries, self._finish(entries), strict=True):
            key, outcome = self._read(entry, result)
            keys.add(key)
            yield entry, outcome, self._store.path_of(key)
        self._store.remove_all_but(keys)
        names = {name for entry in entries for name in (entry.path, entry.captions_path) if name}
        self._memory.forget_all_but(names)

    def close(self) -> None:
        """End the work."""
        self._store.remove_partial()
        self._memory.close()

    def _finish(self, entries: Sequence[ManifestEntry]) -> list[Finished]:
        """Return where the outcome of each row is, after making what the store lacks."""
        results: dict[int, Finished] = {}
        sizes = {}
        for index, entry in enumerate(entries):
            found = self._find(entry)
            if found is None:
                sizes[index] = _size_of(self._download_dir / str(entry.path))
            else:
                results[index] = found
        print(f"preprocess: {len(sizes)} of {len(entries)} files are new or changed", flush=True)
        if not sizes:
            return list(results.values())  # a cluster need not be there
        missing = sorted(sizes, key=lambda index: -sizes[index])  # no long one is begun last
        num_bytes, bytes_done, media_s = sum(sizes.values()), 0, 0.0
        make = partial(make_fragment, self._download_dir, self._store, self._params, self._code)
        limit = StallLimit(self._params.time_limit_s, partial(measure_progress, self._store))
        work = work_through(self._open_pool(make), [entries[index] for index in missing], limit)
        with (
            closing(work),
            tqdm(desc="preprocess", unit=" s of media", disable=num_bytes == 0) as bar,
        ):
            for number, done in work:
                index = missing[number]
                result = Finished("", done.reason) if isinstance(done, Lost) else done
                results[index] = result
                for file in result.digests:
                    self._memory.learn(file)
                bytes_done += sizes[index]
                media_s += result.media_s
                if bytes_done:  # how long all files are is guessed from their bytes
                    bar.total = round(media_s * num_bytes / bytes_done)
                bar.update(round(media_s) - bar.n)
        return [results[index] for index in range(len(entries))]

    def _find(self, entry: ManifestEntry) -> Finished | None:
        """Return where the outcome of a row is, None if there is none yet."""
        if entry.path is None:
            return Finished("", entry.reason)
        names = [name for name in (entry.path, entry.captions_path) if name is not None]
        try:
            digests = [self._memory.recall(name) for name in names]
        except (OSError, ValueError):  # unreadable: the work finds out why
            return None
        if None in digests:
            return None
        file, captions = [*digests, None][:2]
        key = make_key(entry, (str(file), captions), self._params, self._code)
        return Finished(key) if self._store.path_of(key).exists() else None

    def _read(self, entry: ManifestEntry, result: Finished) -> tuple[str, Outcome]:
        """Return the key and the outcome of a row; one that is damaged is made again."""
        for _ in range(MAX_READS):
            if not result.key:
                return "", Outcome([], [], result.reason)
            outcome = self._store.read(result.key)
            if outcome is not None:
                return result.key, outcome
            path = self._store.path_of(result.key)
            print(f"preprocess: {path}: is damaged; it is made again", flush=True)
            path.unlink(missing_ok=True)
            (result,) = self._finish([entry])
        raise OSError(errno.EIO, "what is written here is not what is read", str(path))


def make_fragment(
    download_dir: Path,
    store: FragmentStore,
    params: PreprocessParams,
    code: str,
    entry: ManifestEntry,
) -> Finished:
    """Cut the file of a row and add its fragment to the store, unless it is there.

    `code` is the digest of the code of the process that started the work.

    Raises:
        OSError: the disk is full or broken.
        StageError: this process runs another version of the code.
    """
    if digest_fragment_code() != code:
        raise StageError(
            f"{os.uname().nodename}: vatt or its libraries are not those that started the stage: "
            "another version is installed there, or they were changed meanwhile; run it again"
        )
    with _named_errors(store.folder):
        store.partial_dir.mkdir(parents=True, exist_ok=True)
        # First of all, because whoever measures the progress takes it for the begin of the work.
        with tempfile.TemporaryDirectory(
            dir=store.partial_dir, prefix=f"{key_of(entry)}."
        ) as folder:
            try:
                file = read_digest(download_dir, str(entry.path))
            except (OSError, ValueError) as error:  # also a bad sector: another run may do better
                return Finished("", f"cannot be read: {getattr(error, 'strerror', None) or error}")
            captions = None
            with suppress(OSError, ValueError):  # `write_fragment` finds out why
                if entry.captions_path is not None:
                    captions = read_digest(download_dir, entry.captions_path)
            key = make_key(entry, (file.digest, captions and captions.digest), params, code)
            outcome = store.read(key)
            if outcome is None:
                outcome = write_fragment(download_dir, Path(folder), params, entry)
                store.add(key, Path(folder) / key_of(entry), outcome)
    media_s = sum((row.end_s - row.start_s for row in outcome.segments), start=0.0)
    return Finished(key, None, media_s, tuple(filter(None, (file, captions))))


def measure_progress(store: FragmentStore, entry: ManifestEntry) -> int | None:
    """Return how many bytes of a fragment have been written, None before the work on it began."""
    folders = list(store.partial_dir.glob(f"{key_of(entry)}.*"))
    if not folders:
        return None
    return sum(_size_of(path) for folder in folders for path in folder.glob("*"))


def _size_of(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    """Say where it was when the disk is full: a write that fails does not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from error
