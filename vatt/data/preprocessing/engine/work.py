"""The work on one source file: find out which fragment it needs, and make it if it is not there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vatt.data.manifest import ManifestEntry
from vatt.data.preprocessing.engine.digests import FileDigest, digest_file
from vatt.data.preprocessing.engine.recipe import digest_code, make_key
from vatt.data.preprocessing.engine.store import FragmentStore
from vatt.data.preprocessing.fragments import key_of, write_fragment
from vatt.params import PreprocessParams, StageError


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
        if digest_code() != self.code:
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
