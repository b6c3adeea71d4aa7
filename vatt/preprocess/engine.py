"""Finding or making the fragment of each source file, the largest first, in a pool of processes."""

import errno
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from vatt.core.errors import StageError
from vatt.core.pool import Lost, Pool, StallLimit, work_through
from vatt.corpus.manifest import ManifestEntry
from vatt.params import PreprocessParams
from vatt.preprocess.digests import DigestMemory, FileDigest, read_digest
from vatt.preprocess.fragments import Outcome, key_of, write_fragment
from vatt.preprocess.store import FragmentStore, digest_fragment_code, make_key

DIGESTS_NAME = "digests.sqlite"
MAX_READS = 3


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
        self._memory = DigestMemory(store_dir / DIGESTS_NAME, download_dir)

    def make(
        self, entries: Sequence[ManifestEntry]
    ) -> Iterator[tuple[ManifestEntry, Outcome, Path]]:
        """Make what the store lacks of these rows; only what is new or changed is decoded.

        The iterator then yields each row, its outcome, and the file with the members of its
        segments, if any. At its end it removes from the store what these rows do not need: the
        last complete run is what is kept.

        Raises:
            OSError: the disk is full or broken. What was finished is not lost.
        """
        return self._read_all(entries, self._finish(entries))

    def _read_all(
        self, entries: Sequence[ManifestEntry], results: Sequence[Finished]
    ) -> Iterator[tuple[ManifestEntry, Outcome, Path]]:
        keys = set()
        for entry, result in zip(entries, results, strict=True):
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
        results, sizes = {}, {}
        for index, entry in enumerate(entries):
            found = self._find(entry)
            if found is None:
                sizes[index] = _size_of(self._download_dir / str(entry.path))
            else:
                results[index] = found
        print(f"preprocess: {len(sizes)} of {len(entries)} files are new or changed", flush=True)
        missing = sorted(sizes, key=lambda index: -sizes[index])  # no long one is begun last
        num_bytes, bytes_done, media_s = sum(sizes.values()), 0, 0.0
        with (
            closing(self._work_through([entries[index] for index in missing])) as made,
            tqdm(desc="preprocess", unit=" s of media", disable=num_bytes == 0) as bar,
        ):
            for number, result in made:
                index = missing[number]
                results[index] = result
                bytes_done += sizes[index]
                media_s += result.media_s
                if bytes_done:  # how long all files are is guessed from their bytes
                    bar.total = round(media_s * num_bytes / bytes_done)
                bar.update(round(media_s) - bar.n)
        return [results[index] for index in range(len(entries))]

    def _work_through(
        self, entries: Sequence[ManifestEntry]
    ) -> Generator[tuple[int, Finished], None, None]:
        """Yield the index and the result of each row, as they get done."""
        if not entries:
            return  # a cluster need not be there
        make = partial(make_fragment, self._download_dir, self._store, self._params, self._code)
        limit = StallLimit(self._params.time_limit_s, partial(measure_progress, self._store))
        with closing(work_through(self._open_pool(make), entries, limit)) as work:
            for index, result in work:
                if isinstance(result, Lost):
                    yield index, Finished("", result.reason)
                    continue
                for file in result.digests:
                    self._memory.learn(file)
                yield index, result

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
