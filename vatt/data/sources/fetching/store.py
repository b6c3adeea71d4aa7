"""Where fetched files lie: in part below the ledger's folder, whole in the folder of the source."""

import errno
import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vatt.atomic import atomic_path
from vatt.data.sources.archives import ArchiveError, unpack
from vatt.data.sources.fetching.disk import name_full_disk, require_space
from vatt.data.sources.fetching.ledger import Item
from vatt.data.sources.fetching.remote_file import FetchError, GoneError, RemoteArchive, RemoteFile


@dataclass(frozen=True)
class Store:
    """The two folders of a source."""

    folder: Path
    partial_dir: Path
    min_free_gb: float

    def partial(self, item: Item) -> Path:
        """Return where the bytes of a file gather: named by the ledger, never from outside."""
        return self.partial_dir / f"{item.number}.partial"

    def site_dir(self, item: Item) -> Path:
        """Return where the video of a site gathers: it may come in several files."""
        return self.partial_dir / f"{item.number}.site"

    def holds(self, file: RemoteFile, item: Item) -> bool:
        """Whether a file that is done is here; a move that a kill prevented is made up for."""
        if item.state != "done":
            return False
        target, partial = self.folder / file.name, self.partial(item)
        if isinstance(file, RemoteArchive):
            return target.is_dir()
        if file.sha256 and item.digest and file.sha256.lower() != item.digest:
            return False
        if _has_size(partial, item):  # also where the old bytes are as many
            self.place(partial, target)
        return _has_size(target, item)

    def adopt(self, file: RemoteFile, item: Item) -> bool:
        """Take a file that is here without a line in the ledger as done, if its digest agrees."""
        target = self.folder / file.name
        if isinstance(file, RemoteArchive):
            here = target.is_dir()
        else:
            here = target.is_file() and not target.is_symlink() and not _wrong_digest(file, target)
        if here:
            item.state, item.num_bytes = "done", target.stat().st_size
            item.digest = file.sha256
            self.partial(item).unlink(missing_ok=True)  # of another file that had this number
        return here

    def keep(self, file: RemoteFile, item: Item) -> Path:
        """Check what came whole; the row then calls it done. An archive is unpacked here.

        Raises:
            FetchError: it is not what was wanted; nothing of it is kept.
            StageError: the disk is full.
        """
        partial, target = self.partial(item), self.folder / file.name
        wrong = _wrong_digest(file, partial)
        if wrong:
            self.drop(item)
            # The same wrong bytes twice are no accident of the way.
            raise GoneError(wrong) if item.reason == wrong else FetchError(wrong)
        item.digest = digest_of(partial)
        if isinstance(file, RemoteArchive):
            try:
                with name_full_disk(target):
                    unpack(partial, target, self.min_free_gb)
            except ArchiveError as error:
                self.drop(item)
                raise GoneError(f"the archive is refused: {error}") from error
        item.state, item.reason, item.gone = "done", None, False
        return target

    def drop(self, item: Item) -> None:
        """Forget what came of a file."""
        item.forget()
        self.partial(item).unlink(missing_ok=True)
        shutil.rmtree(self.site_dir(item), ignore_errors=True)

    def place(self, partial: Path, target: Path) -> None:
        """Move a file to its place, also to another disk; it appears whole."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            require_space(target.parent, partial.stat().st_size, self.min_free_gb)
            with name_full_disk(target), atomic_path(target) as copy:
                shutil.copyfile(partial, copy)
            partial.unlink()

    def remove_leftovers(self, items: Iterable[Item]) -> None:
        """Remove what came in part of files that are done or no longer wanted."""
        wanted = {str(item.number) for item in items if item.state != "done"}
        for path in self.partial_dir.iterdir():
            if path.stem not in wanted:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def digest_of(path: Path, kind: str = "sha256") -> str:
    """Return the digest of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _wrong_digest(file: RemoteFile, path: Path) -> str | None:
    """Say how a file differs from what was published of it."""
    for kind, wanted in (("sha256", file.sha256), ("md5", file.md5)):
        if wanted and (found := digest_of(path, kind)) != wanted.lower():
            return f"its {kind} is {found}, not {wanted}"
    return None


def _has_size(path: Path, item: Item) -> bool:
    """Whether a path holds a file of the size that the ledger knows."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size == item.num_bytes
