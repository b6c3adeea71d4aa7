"""Finding or making the fragment of each source file, the largest first, in a pool of processes.

A file that did not change since the last run is not even read: the store knows it by its status.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
from vatt.preprocess.recognition import Recogniser


class Finished(NamedTuple):
    """Where the outcome of a file is: in the store, or here if another run may do better."""

    key: str
    """The key of its entry in the store; empty if there is none."""
    reason: str | None = None
    """Why there is no entry."""
    status: str = ""
    """The digest of the row and of the status of its files; empty if one of them is missing."""
    media_s: float = 0.0
    """The length of all segments."""


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
        recogniser: Recogniser | None = None,
    ) -> None:
        store_dir.mkdir(parents=True, exist_ok=True)
        self._download_dir, self._params, self._open_pool = download_dir, params, open_pool
        self._store = FragmentStore(store_dir)
        self._store.remove_partial()
        self._code, self._recogniser = digest_fragment_code(), recogniser

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
        kept = set()
        for entry, result in zip(entries, self._finish(entries), strict=True):
            key, outcome = self._read(entry, result)
            kept |= {key, result.status}
            if self._recogniser and outcome.transcript:
                kept.add(self._recogniser.make_key(outcome.segments[0].source_digest))
            yield entry, outcome, self._store.path_of(key)
        self._store.remove_all_but(kept)
        if self._recogniser:
            self._recogniser.store.remove_all_but(kept)

    def close(self) -> None:
        """End the work."""
        self._store.remove_partial()

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
        given = self._download_dir, self._store, self._params, self._code
        make = partial(make_fragment, *given, recogniser=self._recogniser)
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
        try:
            code = _name_code(self._code, self._recogniser, entry)
            status = _digest_status(self._download_dir, self._params, code, entry)
            key = self._store.recall(status)
        except (OSError, ValueError):  # unknown or unreadable: the work finds out why
            return None
        return Finished(key, None, status) if self._store.path_of(key).exists() else None

    def _read(self, entry: ManifestEntry, result: Finished) -> tuple[str, Outcome]:
        """Return the key and the outcome of a row; one that is damaged is made again."""
        for _ in range(3):
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
    recogniser: Recogniser | None = None,
) -> Finished:
    """Cut the file of a row and add its fragment to the store, unless it is there.

    `code` is the digest of the code of the process that started the work; `recogniser` is for the
    rows that ask for one.

    Raises:
        OSError: the disk is full or broken.
        StageError: this process runs another version of the code.
    """
    _require_code(code)
    code = _name_code(code, recogniser, entry)
    with _named_errors(store.folder):
        store.partial_dir.mkdir(parents=True, exist_ok=True)
        # First of all, because whoever measures the progress takes it for the begin of the work.
        with tempfile.TemporaryDirectory(
            dir=store.partial_dir, prefix=f"{key_of(entry)}."
        ) as folder:
            status, captions = "", None
            with suppress(OSError, ValueError):  # before the files are read: they may change then
                status = _digest_status(download_dir, params, code, entry)
            try:
                file = digest_file(download_dir / str(entry.path))
            except (OSError, ValueError) as error:  # also a bad sector: another run may do better
                return Finished("", f"cannot be read: {getattr(error, 'strerror', None) or error}")
            with suppress(OSError, ValueError):  # `write_fragment` finds out why
                if entry.captions_path is not None:
                    captions = digest_file(download_dir / entry.captions_path)
            key = make_key(entry, (file, captions), params, code)
            outcome = store.read(key)
            if outcome is None:
                transcribe = None
                if recogniser and entry.transcribe:
                    path = download_dir / str(entry.path)
                    transcribe = partial(recogniser.transcribe, path, file, Path(folder))
                outcome = write_fragment(download_dir, Path(folder), params, entry, transcribe)
                store.add(key, Path(folder) / key_of(entry), outcome)
            if status:
                store.learn(status, key)
    media_s = sum((row.end_s - row.start_s for row in outcome.segments), start=0.0)
    return Finished(key, None, status, media_s)


def _require_code(code: str) -> None:
    """Raise StageError if this process runs other code than the one that started the work."""
    if digest_fragment_code() != code:
        raise StageError(
            f"{os.uname().nodename}: vatt or its libraries are not those that started the stage: "
            "another version is installed there, or they were changed meanwhile; run it again"
        )


def _name_code(code: str, recogniser: Recogniser | None, entry: ManifestEntry) -> str:
    """Return the code that decides a fragment, and where it has a transcript, what decides that."""
    return f"{code} {recogniser.key}" if recogniser and entry.transcribe else code


def _digest_status(
    download_dir: Path, params: PreprocessParams, code: str, entry: ManifestEntry
) -> str:
    """Return a digest of a row and of what the file system says of its files.

    As in DVC, the same size, time and inode mean the same content. OSError says that a file is
    missing or cannot be reached.
    """
    found = [(download_dir / name).stat() for name in (entry.path, entry.captions_path) if name]
    statuses = [(status.st_size, status.st_mtime_ns, status.st_ino) for status in found]
    return make_key(entry, statuses, params, code)


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
