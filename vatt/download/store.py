"""Where fetched files lie: in part below the ledger's folder, whole in the folder of the source."""

import errno
import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vatt.core.disk import name_disk_errors, require_space
from vatt.core.files import atomic_path
from vatt.download.archives import ArchiveError, unpack
from vatt.download.ledger import LedgerRow
from vatt.download.remote_files import FetchError, GoneError, RemoteArchive, RemoteFile


@dataclass(frozen=True)
class Store:
    """The two folders of a source."""

    folder: Path
    partial_dir: Path
    min_free_gb: float

    def partial(self, row: LedgerRow) -> Path:
        """Return where the bytes of a file gather: named by the ledger, never from outside."""
        return self.partial_dir / f"{row.number}.partial"

    def site_dir(self, row: LedgerRow) -> Path:
        """Return where the video of a site gathers: it may come in several files."""
        return self.partial_dir / f"{row.number}.site"

    def holds(self, file: RemoteFile, row: LedgerRow) -> bool:
        """Whether a file that is done is here; a move that a kill prevented is made up for."""
        if row.state != "done":
            return False
        target, partial = self.folder / file.name, self.partial(row)
        if isinstance(file, RemoteArchive):
            return target.is_dir()
        if file.sha256 and row.digest and file.sha256.lower() != row.digest:
            return False
        if _has_size(partial, row):  # also where the old bytes are as many
            self.move(partial, target)
        return _has_size(target, row)

    def adopt(self, file: RemoteFile, row: LedgerRow) -> bool:
        """Take a file that is here without a row in the ledger as done, if its digest agrees."""
        target = self.folder / file.name
        if isinstance(file, RemoteArchive):
            here = target.is_dir()
        else:
            here = target.is_file() and not target.is_symlink() and not _check(file, target)
        if here:
            row.state, row.num_bytes = "done", target.stat().st_size
            row.digest = file.sha256.lower() if file.sha256 else None
            self.partial(row).unlink(missing_ok=True)  # of another file that had this number
        return here

    def keep(self, file: RemoteFile, row: LedgerRow) -> Path:
        """Check what came whole; the row then calls it done. An archive is unpacked here.

        Raises:
            FetchError: it is not what was asked for; nothing of it is kept.
            StageError: the disk is full.
        """
        partial, target = self.partial(row), self.folder / file.name
        problem = _check(file, partial)
        if problem:
            self.drop(row)
            # The same wrong bytes twice are no accident of the way.
            raise GoneError(problem) if row.reason == problem else FetchError(problem)
        row.digest = file.sha256.lower() if file.sha256 else _digest(partial, "sha256")
        if isinstance(file, RemoteArchive):
            try:
                unpack(partial, target, self.min_free_gb)
            except ArchiveError as error:
                self.drop(row)
                raise GoneError(f"the archive is refused: {error}") from error
        row.state, row.reason, row.gone = "done", None, False
        return target

    def drop(self, row: LedgerRow) -> None:
        """Forget what came of a file."""
        row.forget()
        self.partial(row).unlink(missing_ok=True)
        shutil.rmtree(self.site_dir(row), ignore_errors=True)

    def move(self, partial: Path, target: Path) -> None:
        """Move a file to its place, also to another disk; it appears whole."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            require_space(target.parent, partial.stat().st_size, self.min_free_gb)
            with name_disk_errors(target), atomic_path(target) as copy:
                shutil.copyfile(partial, copy)
            partial.unlink()

    def remove_leftovers(self, rows: Iterable[LedgerRow]) -> None:
        """Remove what came in part of files that are done or no longer asked for."""
        unfinished = {str(row.number) for row in rows if row.state != "done"}
        for path in self.partial_dir.iterdir():
            if path.stem not in unfinished:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _check(file: RemoteFile, path: Path) -> str | None:
    """Say how a file differs from what was published of it."""
    for kind, published in (("sha256", file.sha256), ("md5", file.md5)):
        if published and (found := _digest(path, kind)) != published.lower():
            return f"its {kind} is {found}, not {published}"
    return None


def _has_size(path: Path, row: LedgerRow) -> bool:
    """Whether a path holds a file of the size that the ledger knows."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size == row.num_bytes
