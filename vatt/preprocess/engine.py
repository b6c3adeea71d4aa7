"""Making the fragments that the store lacks, the largest files first, wherever a crew works.

The work on one source file: find out which fragment it needs, and make it if it is not there.

Work on a Ray cluster (`pip install .[ray]`), whose machines share the folders of the project.

Each machine has the same vatt installed and reaches the current folder under the same path.
"""

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from vatt.core.errors import StageError
from vatt.core.pool import Attempt, Crew, Lost, StallLimit, attempt, work_through
from vatt.corpus.manifest import ManifestEntry
from vatt.params import PreprocessParams
from vatt.preprocess.cache import (
    DigestMemory,
    FileDigest,
    FragmentStore,
    digest_file,
    digest_fragment_code,
    make_key,
)
from vatt.preprocess.fragments import Outcome, key_of, write_fragment


class Finished(NamedTuple):
    """Where the outcome of a file is: in the store, or, for what another run may do better, here."""

    key: str | None
    reason: str | None = None
    """Why there are no segments."""
    media_s: float = 0.0
    """Length of all segments."""
    digests: tuple[FileDigest, ...] = ()
    """Of the file and its captions, where they were read."""


@dataclass(frozen=True)
class Work:
    """What a process does with a row of the manifest; travels to the processes."""

    download_dir: Path
    store_dir: Path
    params: PreprocessParams
    code: str
    """The digest of the code of the process that started the work."""

    def __call__(self, entry: ManifestEntry) -> Finished:
        """Cut a file and add its fragment to the store, unless it is there.

        Raises:
            OSError: the disk is full or broken.
            StageError: this process runs another version of the code.
        """
        if digest_fragment_code() != self.code:
            raise StageError(
                f"{os.uname().nodename}: vatt or its libraries are not those that started the stage: "
                "another version is installed there, or they were changed meanwhile; run it again"
            )
        store = FragmentStore(self.store_dir)
        with _named_errors(self.store_dir):
            store.partial_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                dir=store.partial_dir, prefix=key_of(entry) + "."
            ) as folder:
                return self._finish(entry, store, Path(folder))

    def _finish(self, entry: ManifestEntry, store: FragmentStore, folder: Path) -> Finished:
        try:
            file = digest_file(self.download_dir, str(entry.path))
        except (OSError, ValueError) as error:  # also a bad sector: another run may do better
            return Finished(None, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        captions = None
        with suppress(OSError, ValueError):  # who reads them tells why they cannot be read
            if entry.captions_path is not None:
                captions = digest_file(self.download_dir, entry.captions_path)
        key = make_key(entry, (file.digest, captions and captions.digest), self.params, self.code)
        found = store.read(key)
        outcome = found or write_fragment(self.download_dir, folder, self.params, entry)
        if found is None:
            store.add(key, folder / key_of(entry), outcome)
        media_s = sum((row.end_s - row.start_s for row in outcome.segments), start=0.0)
        return Finished(key, None, media_s, tuple(filter(None, (file, captions))))

    def measure_progress(self, entry: ManifestEntry) -> int | None:
        """Return how much of a fragment has been written, None before the work on it began."""
        partial_dir = FragmentStore(self.store_dir).partial_dir
        folders = list(partial_dir.glob(f"{key_of(entry)}.*"))
        if not folders:
            return None
        return sum(_size_of(path) for folder in folders for path in folder.glob("*"))

    def measure_source(self, entry: ManifestEntry) -> int:
        """Return the bytes of a source file: how long it takes is guessed from them."""
        return _size_of(self.download_dir / str(entry.path))


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


CONNECT_S = 10.0


class RayCrew:
    """One process for each processor that the cluster has at the moment."""

    def __init__(self, function: Callable[[Any], Any], address: str) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise StageError(
                f"launch.ray_address = {address}: Ray is not installed: `pip install .[ray]`"
            ) from error
        try:
            if address != "auto":  # Ray alone would try for many minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), CONNECT_S).close()
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise StageError(f"launch.ray_address = {address}: {error}") from error
        self._ray: Any = ray
        self._function = ray.put((Path.cwd(), function))
        # A process that died is tried again by who asked, as on one machine.
        self._attempt = ray.remote(num_cpus=1, max_retries=0)(_attempt_there)
        self._running: dict[Any, int] = {}

    @property
    def size(self) -> int:
        """How many processors there are; machines may come and go."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def start(self, index: int, item: Any) -> None:
        """See `Crew`."""
        self._running[self._attempt.remote(self._function, item)] = index

    def wait(self, timeout_s: float) -> list[tuple[int, Attempt | None]]:
        """See `Crew`."""
        ready, _ = self._ray.wait(list(self._running), timeout=timeout_s)
        return [(self._running.pop(reference), self._get(reference)) for reference in ready]

    def _get(self, reference: Any) -> Attempt | None:
        try:
            done: Attempt = self._ray.get(reference)
        except self._ray.exceptions.RayError:  # the process, or its machine, is gone
            return None
        return done

    def end(self, index: int) -> None:
        """See `Crew`."""
        reference = next(key for key, value in self._running.items() if value == index)
        del self._running[reference]
        self._ray.cancel(reference, force=True)

    def close(self) -> None:
        """See `Crew`."""
        for index in list(self._running.values()):
            self.end(index)
        self._ray.shutdown()


def _attempt_there(function: tuple[Path, Callable[[Any], Any]], item: Any) -> Attempt:
    """Call a function on another machine, in the folder where it would be called here."""
    folder, call = function
    os.chdir(folder)
    return attempt(call, item)


DIGESTS_NAME = "digests.sqlite"
MAX_READS = 3


class FragmentMaker:
    """Finds or makes the fragments of rows of the manifest.

    What is kept in `work.store_dir` is a cache: any of it may be lost or damaged at any time.
    """

    def __init__(self, work: Work, open_crew: Callable[[Callable[[Any], Any]], Crew]) -> None:
        work.store_dir.mkdir(parents=True, exist_ok=True)
        self.store = FragmentStore(work.store_dir)
        self.store.remove_partial()
        self._work = work
        self._open_crew = open_crew
        self._memory = DigestMemory(work.store_dir / DIGESTS_NAME, work.download_dir)

    def finish(self, entries: Sequence[ManifestEntry]) -> list[Finished]:
        """Return what became of each row. Only what is new or changed is decoded.

        Raises:
            OSError: the disk is full or broken. What was finished is not lost.
        """
        found = {place: self._find(entry) for place, entry in enumerate(entries)}
        results = {place: result for place, result in found.items() if result is not None}
        missing = [place for place in found if place not in results]
        print(f"preprocess: {len(missing)} of {len(entries)} files are new or changed", flush=True)
        sizes = {place: self._work.measure_source(entries[place]) for place in missing}
        missing.sort(key=lambda place: -sizes[place])  # what takes long must not be begun last
        bar = _MediaBar(sum(sizes.values()))
        with closing(bar), closing(self._make([entries[place] for place in missing])) as made:
            for number, result in made:
                place = missing[number]
                results[place] = result
                bar.advance(sizes[place], result.media_s)
        return [results[place] for place in found]

    def _make(
        self, entries: Sequence[ManifestEntry]
    ) -> Generator[tuple[int, Finished], None, None]:
        """Yield the place and the result of each row, as they get done."""
        if not entries:
            return
        limit = StallLimit(self._work.params.time_limit_s, self._work.measure_progress)
        work = work_through(self._open_crew(self._work), entries, limit)
        with closing(work):
            for place, result in work:
                if isinstance(result, Lost):
                    yield place, Finished(None, result.reason)
                    continue
                for file in result.digests:
                    self._memory.learn(file)
                yield place, result

    def read(self, entry: ManifestEntry, result: Finished) -> tuple[Finished, Outcome]:
        """Return the outcome of a row; one that is damaged is made again, and the result with it.

        Raises:
            OSError: the disk is full or broken.
        """
        for _ in range(MAX_READS):
            if result.key is None:
                return result, Outcome([], [], result.reason)
            outcome = self.store.read(result.key)
            if outcome is not None:
                return result, outcome
            path = self.store.path_of(result.key)
            print(f"preprocess: {path}: is damaged; it is made again", flush=True)
            path.unlink(missing_ok=True)
            result = self.finish([entry])[0]
        raise OSError(errno.EIO, "what is written here is not what is read", str(path))

    def path_of(self, result: Finished) -> Path:
        """Return the file that holds the members of a row's segments, if it has any."""
        return self.store.path_of(result.key or "none")

    def close(self) -> None:
        """End the work."""
        self.store.remove_partial()
        self._memory.close()

    def keep_only(self, entries: Sequence[ManifestEntry], results: Sequence[Finished]) -> None:
        """Remove all that these rows do not need: their last complete run is what is kept."""
        self.store.remove_all_but({result.key for result in results if result.key is not None})
        names = {name for entry in entries for name in (entry.path, entry.captions_path) if name}
        self._memory.forget_all_but(names)

    def _find(self, entry: ManifestEntry) -> Finished | None:
        """Return where the outcome of a row is, None if there is none yet."""
        if entry.path is None:
            return Finished(None, entry.reason)
        names = [name for name in (entry.path, entry.captions_path) if name is not None]
        try:
            digests = [self._memory.recall(name) for name in names]
        except (OSError, ValueError):  # unreadable: the work tells why
            return None
        if None in digests:
            return None
        file, captions = [*digests, None][:2]
        key = make_key(entry, (str(file), captions), self._work.params, self._work.code)
        return Finished(key) if self.store.path_of(key).exists() else None


class _MediaBar:
    """A progress bar in seconds of media; how many there are is guessed from the bytes of files."""

    def __init__(self, num_bytes: int) -> None:
        self._bar = tqdm(desc="preprocess", unit=" s of media", disable=num_bytes == 0)
        self._num_bytes = num_bytes
        self._bytes_done = 0
        self._media_s = 0.0

    def advance(self, num_bytes: int, media_s: float) -> None:
        """Count a file that is done."""
        self._bytes_done += num_bytes
        self._media_s += media_s
        if self._bytes_done:
            self._bar.total = round(self._media_s * self._num_bytes / self._bytes_done)
        self._bar.update(round(self._media_s) - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is, with what there really was."""
        self._bar.total = self._bar.n
        self._bar.close()
