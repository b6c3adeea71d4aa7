"""The files that a user names: paths, folders, or addresses of any storage that fsspec knows."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import fsspec

from vatt.core.errors import StageError
from vatt.download.folder import MEDIA_SUFFIXES
from vatt.download.remote_files import HIDDEN
from vatt.download.storage import Storage


class MediaFile(NamedTuple):
    """A file that is to be read."""

    name: str
    """How results call it, always UTF-8."""
    address: str
    """A path, or what fsspec knows."""
    state: str
    """Another one when its content may be another: size and time, as far as its storage tells.
    Empty where that is not known."""
    num_bytes: int


def find_files(places: Sequence[str]) -> tuple[list[MediaFile], dict[str, str]]:
    """Return the media files of folders and the files that are named; and those with a problem.

    Of a folder these are the files with a suffix of video or sound, at any depth, without hidden
    ones. The name of a folder that cannot be listed ends with a slash.

    Raises:
        StageError: a place does not exist or cannot be listed.
    """
    files: dict[str, MediaFile] = {}
    reasons: dict[str, str] = {}
    for place in map(unify, places):
        for name, address, problem in _list(place):
            if problem:
                reasons[name] = problem
            else:
                files[name] = _describe(name, address)
    return list(files.values()), reasons


def unify(place: str) -> str:
    """Return the one spelling of a place: a path without detours, or an address as it is.

    Raises:
        StageError: it is blank.
    """
    if not place.strip():
        raise StageError(f"{place!r}: is no file and no folder")
    place = place.removeprefix("file://")
    return place.rstrip("/") if "://" in place else os.path.normpath(place)


def is_below(name: str, places: Sequence[str]) -> bool:
    """Return whether a file is one of the places, or lies in one."""
    below = (_escape(place).rstrip("/") for place in places)
    return any(name == place or name.startswith(f"{place}/") for place in below)


def _list(place: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield name, address and problem of what is at a place: a folder, or a file."""
    if "://" not in place:
        is_folder, is_there = Path(place).is_dir(), os.path.lexists(place)
    else:
        try:
            system, path = fsspec.core.url_to_fs(place)
            is_folder, is_there = system.isdir(path), system.exists(path)
        except Exception as error:  # every kind of storage raises its own
            raise StageError(f"{place}: cannot be read: {error}") from error
    if not is_there:
        raise StageError(f"{place}: does not exist")
    if not is_folder:
        yield _escape(place), place, None
        return
    for file in Storage(place).list_files():
        is_folder = file.name.endswith("/")  # that cannot be listed
        is_media = PurePosixPath(file.name).suffix.lower() in MEDIA_SUFFIXES
        if file.problem != HIDDEN and (is_folder or is_media):
            address = system.unstrip_protocol(file.address) if "://" in place else file.address
            yield f"{_escape(place).rstrip('/')}/{file.name}", address, file.problem


def _describe(name: str, address: str) -> MediaFile:
    """Return a file with its state; whoever reads it finds out what is wrong with one without."""
    try:
        if "://" in address:
            system, path = fsspec.core.url_to_fs(address)
            facts = system.info(path)
            size, seen = int(facts.get("size") or 0), sorted(map(str, facts.items()))
        else:
            status = Path(address).stat()
            size, seen = status.st_size, [str(status.st_mtime_ns), str(status.st_ino)]
    except Exception:  # noqa: BLE001 - every kind of storage raises its own
        return MediaFile(name, address, "", 0)
    content = "\n".join([str(size), *seen]).encode("utf-8", "surrogatepass")
    return MediaFile(name, address, hashlib.blake2b(content, digest_size=16).hexdigest(), size)


@contextmanager
def read_locally(address: str) -> Iterator[Path]:
    """Give the path of a file, of a copy where it is not on a disk of this machine."""
    if "://" not in address:
        yield Path(address)
        return
    files, place = fsspec.core.url_to_fs(address)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"file{PurePosixPath(place).suffix}"
        files.get_file(place, str(copy))
        yield copy


def _escape(name: str) -> str:
    """Return a name with the bytes that are not UTF-8 written out, as `Storage` does."""
    return name.encode("utf-8", "backslashreplace").decode()
