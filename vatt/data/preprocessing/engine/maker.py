"""Making the fragments that the store lacks, the largest files first, wherever a crew works."""

import errno
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vatt.data.manifest import ManifestEntry
from vatt.data.preprocessing.engine.digests import DigestMemory
from vatt.data.preprocessing.engine.recipe import make_key
from vatt.data.preprocessing.engine.store import FragmentStore
from vatt.data.preprocessing.engine.work import Finished, Work
from vatt.data.preprocessing.fragments import Outcome
from vatt.data.preprocessing.workers import Crew, Lost, StallLimit, work_through

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
