"""Unpacks zip and tar archives of others: whole or not at all, and nothing but files and folders.

The filters of tarfile are not used: `data` takes links within the folder and cuts the first slash
of a name, where all of the archive is refused here, and zipfile has none.
"""

import errno
import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from vatt.core.disk import name_disk_errors, require_space
from vatt.core.files import atomic_path
from vatt.download.remote_files import stays_inside

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
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, struct.error),
    *(UnicodeError, OverflowError, NotImplementedError),
)
"""What the readers of archives raise."""


class ArchiveError(ValueError):
    """An archive cannot be unpacked, or must not be; the message names the member."""


class _Member(NamedTuple):
    """A file or a folder of an archive."""

    name: str
    num_bytes: int
    """By the archive's own word."""
    is_folder: bool
    problem: str | None
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, min_free_gb: float) -> None:
    """Unpack an archive to `folder`, which appears whole or not at all; one that is there goes.

    All of it is refused for a name that leaves the folder or is given twice, a link, a device, a
    pipe or an encrypted member, and for more bytes than the limits or the member's own word allow.

    Raises:
        ArchiveError: it is refused, damaged, or neither zip, tar nor tar.gz.
        StageError: the disk is full, or would be.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _open(archive) as listed:
            members = _check_all(listed, archive.stat().st_size)
            total_bytes = sum(member.num_bytes for member in members.values())
            require_space(folder.parent, total_bytes, min_free_gb)
            with name_disk_errors(folder), atomic_path(folder) as made:
                made.mkdir()
                for name, member in members.items():
                    _write(member, made / name)
    except DAMAGE as error:
        raise ArchiveError(f"is damaged: {type(error).__name__}: {error}") from error


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
        if not 0 <= num_bytes <= MAX_HEADER_BYTES:
            raise ArchiveError(f"a header says that it has {num_bytes} bytes")
        return self._stream.read(num_bytes)


def _list_zip(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for entry in archive.infolist():
        problem = None
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
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


def _check_all(listed: Iterator[_Member], archive_bytes: int) -> dict[str, _Member]:
    """Check members as they are listed, so that a bomb is met before it is read through.

    Returns:
        The members by their names without the dots and slashes that mean nothing.
    """
    members: dict[str, _Member] = {}
    total_bytes, max_bytes = 0, max(FREE_BYTES, MAX_RATIO * archive_bytes)
    for member in listed:
        name = str(PurePosixPath(member.name))
        total_bytes += member.num_bytes
        if member.problem:
            problem = member.problem
        elif name != "." and not stays_inside(name):
            problem = "leaves the folder"
        elif "\\" in member.name or not name.isprintable():
            problem = "has a name with a backslash or control characters, or not in UTF-8"
        elif name in members and not (member.is_folder and members[name].is_folder):
            problem = "is given twice"
        elif member.num_bytes < 0 or total_bytes > max_bytes or len(members) >= MAX_MEMBERS:
            problem = f"makes it {total_bytes} bytes, unpacked from {archive_bytes}"
        else:
            members[name] = member
            continue
        raise ArchiveError(f"{member.name[:300]!a} {problem}")
    members.pop(".", None)
    for name in members:
        for parent in PurePosixPath(name).parents:
            if str(parent) in members and not members[str(parent)].is_folder:
                raise ArchiveError(f"{name!a} is in a folder that is a file")
    return members


def _write(member: _Member, target: Path) -> None:
    """Write one member, exactly as long as it says."""
    try:
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        content = member.open()
        if content is None:
            raise ArchiveError(f"{member.name!a} has no content")
        with target.open("xb") as file, content:
            left = member.num_bytes
            while left >= 0 and (chunk := content.read(CHUNK_BYTES)):
                left -= len(chunk)
                file.write(chunk)
        if left:
            raise ArchiveError(f"{member.name!a} does not have the size that it says")
    except OSError as error:
        if error.errno in BAD_NAME:
            raise ArchiveError(f"{member.name[:300]!a}: {error.strerror}") from error
        raise
