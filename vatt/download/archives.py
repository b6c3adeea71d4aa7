"""Unpacks zip and tar archives of others: whole or not at all, and nothing but files and folders.

Where fetched files lie: in part below the ledger's folder, whole in the folder of the source.
"""

import errno
import gzip
import hashlib
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from vatt.core.disk import name_full_disk, require_space
from vatt.core.files import atomic_path
from vatt.download.ledger import (
    FetchError,
    GoneError,
    Item,
    RemoteArchive,
    RemoteFile,
    stays_inside,
)

MAX_RATIO = 200
"""Unpacked to packed bytes of a whole archive: text reaches 20, media 1, a bomb a thousand."""
FREE_BYTES = 100_000_000
"""Archives that unpack to less are not held to the ratio."""
MAX_MEMBERS = 10_000_000
MAX_HEADER_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
NO_LINKS = "is a link, a device or a pipe"
BAD_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class ArchiveError(ValueError):
    """An archive cannot be unpacked, or must not be; the message names the member."""


@dataclass(frozen=True)
class _Member:
    """A file or a folder of an archive."""

    name: str
    num_bytes: int
    """By the archive's own word."""
    is_folder: bool
    problem: str | None
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, min_free_gb: float) -> None:
    """Unpack an archive to `folder`, which appears whole or not at all; one that is there goes.

    All of it is refused for a name that leaves the folder or is given twice, for a link, a device, a
    pipe or an encrypted member, and for more bytes than the limits or the member's own word allow.

    Raises:
        ArchiveError: it is refused, damaged, or neither zip, tar nor tar.gz.
        StageError: the disk is full, or would be.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _name_damage(), _open(archive) as listed:
        members = _check_all(listed, archive.stat().st_size)
        total_bytes = sum(member.num_bytes for member in members)
        require_space(folder.parent, total_bytes, min_free_gb)
        with name_full_disk(folder), atomic_path(folder) as made:
            made.mkdir()
            for member in members:
                _write(member, made / member.name)


@contextmanager
def _open(archive: Path) -> Iterator[Iterator[_Member]]:
    """Open an archive of any kind; its members are read one by one."""
    with archive.open("rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        if start in (b"PK\x03\x04", b"PK\x05\x06"):
            with zipfile.ZipFile(raw) as zipped:
                yield _list_zip(zipped)
            return
        is_gzip = start.startswith(b"\x1f\x8b")
        stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if is_gzip else raw  # type: ignore[assignment]
        try:
            tarred = tarfile.TarFile(fileobj=_Bounded(stream))  # type: ignore[arg-type]
        except tarfile.ReadError as error:
            raise ArchiveError("is neither zip, tar nor tar.gz") from error
        with tarred:
            yield _list_tar(tarred, stream)


class _Bounded:
    """A stream that refuses to be read at once where tarfile believes a header of any size."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, num_bytes: int = -1) -> bytes:
        """Read at most MAX_HEADER_BYTES.

        Raises:
            ArchiveError: more was asked for.
        """
        if not 0 <= num_bytes <= MAX_HEADER_BYTES:
            raise ArchiveError(f"a header says that it has {num_bytes} bytes")
        return self._stream.read(num_bytes)


def _list_zip(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for entry in archive.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)
        problem = None
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            problem = NO_LINKS
        elif entry.flag_bits & 0x1:
            problem = "is encrypted"
        elif entry.compress_type not in ZIP_METHODS:
            problem = f"is compressed by method {entry.compress_type}, which is not accepted"
        name = entry.orig_filename  # as written: zipfile cuts `filename` at a zero byte
        opener = partial(archive.open, entry)
        yield _Member(name, entry.file_size, entry.is_dir(), problem, opener)


def _list_tar(archive: tarfile.TarFile, stream: IO[bytes]) -> Iterator[_Member]:
    for entry in archive:
        problem = None if entry.isreg() or entry.isdir() else NO_LINKS
        opener = partial(archive.extractfile, entry)
        yield _Member(entry.name, entry.size, entry.isdir(), problem, opener)
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)  # tarfile takes a damaged header for the end
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        raise ArchiveError(f"is damaged: neither a member nor the end is at byte {archive.offset}")


def _check_all(listed: Iterator[_Member], archive_bytes: int) -> list[_Member]:
    """Check members as they are listed, so that a bomb is met before it is read through."""
    members: dict[str, _Member] = {}
    total_bytes, max_bytes = 0, max(FREE_BYTES, MAX_RATIO * archive_bytes)
    for member in listed:
        name = str(PurePosixPath(member.name))  # without the dots and slashes that mean nothing
        total_bytes += member.num_bytes
        problem = member.problem or _problem_of_name(member.name, name)
        if name in members and not (member.is_folder and members[name].is_folder):
            problem = problem or "is given twice"
        if member.num_bytes < 0 or total_bytes > max_bytes or len(members) >= MAX_MEMBERS:
            problem = problem or f"makes it {total_bytes} bytes, unpacked from {archive_bytes}"
        if problem:
            raise ArchiveError(f"{member.name[:300]!a} {problem}")
        if name != ".":
            members[name] = replace(member, name=name)
    for name in members:
        for parent in PurePosixPath(name).parents:
            if str(parent) in members and not members[str(parent)].is_folder:
                raise ArchiveError(f"{name!a} is in a folder that is a file")
    return list(members.values())


def _problem_of_name(written: str, name: str) -> str | None:
    """Say what is wrong with a member's name."""
    if name != "." and not stays_inside(name):
        return "leaves the folder"
    if "\\" in written or not name.isprintable():
        return "has a name with a backslash or control characters, or not in UTF-8"
    return None


def _write(member: _Member, target: Path) -> None:
    """Write one member, exactly as long as it says."""
    try:
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file, member.open() or _nothing(member) as content:
            left = member.num_bytes
            while chunk := content.read(CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    break
                file.write(chunk)
        if left:
            raise ArchiveError(f"{member.name!a} does not have the size that it says")
    except OSError as error:
        if error.errno in BAD_NAME:
            raise ArchiveError(f"{member.name[:300]!a}: {error.strerror}") from error
        raise


def _nothing(member: _Member) -> IO[bytes]:
    raise ArchiveError(f"{member.name!a} has no content")


@contextmanager
def _name_damage() -> Iterator[None]:
    """Turn what the readers of archives raise into one error.

    Raises:
        ArchiveError: the archive is damaged.
    """
    damage = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
    odd = (struct.error, UnicodeError, OverflowError, NotImplementedError)
    try:
        yield
    except (*damage, *odd) as error:
        raise ArchiveError(f"is damaged: {type(error).__name__}: {error}") from error


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
