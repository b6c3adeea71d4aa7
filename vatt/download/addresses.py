"""Addresses in place of a folder of media: files, archives of them, videos of a site."""

import csv
import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec

from vatt.core.errors import StageError
from vatt.download import fetch
from vatt.download.lists import Item, RowError, read_seconds
from vatt.download.remote_files import (
    RemoteArchive,
    RemoteFile,
    SiteVideo,
    StoredFile,
    check_name,
    check_remote,
    describe,
)
from vatt.download.storage import Storage, remove_others
from vatt.media.encodings import CaptionError, decode_text
from vatt.params import FetchParams

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
YOUTUBE = "https://www.youtube.com/watch?v="


class AddressedMedia:
    """Media files by their addresses; archives are fetched to `folder`, and unpacked there."""

    def __init__(self, files: Iterable[StoredFile], folder: Path, fetch: FetchParams) -> None:
        self._files, self._folder, self._fetch = list(files), folder, fetch
        self.archives_dir = folder / f"{folder.name}_archives"
        """Where archives are unpacked; what is in no list stays there, another fold may need it."""

    def list_files(self) -> list[StoredFile]:
        """Fetch and unpack the archives; return all files, sorted by name."""
        archives: dict[str, RemoteArchive] = {}
        listed: list[StoredFile] = []
        for file in self._files:
            if isinstance(file, RemoteArchive):
                archives.setdefault(file.name, file)
            else:
                listed.append(file)
        problems: dict[str, str | None] = {}
        if archives:
            problems = fetch.fetch_all(list(archives.values()), self.archives_dir, self._fetch)
        for name, problem in problems.items():
            if problem:
                listed.append(StoredFile(archives[name].address, "", problem=problem))
            for path in sorted((self.archives_dir / name).rglob("*")):
                if path.is_file():
                    member = path.relative_to(self._folder).as_posix()
                    listed.append(StoredFile(member, str(path), problem=check_name(member)))
        return sorted(listed, key=lambda file: file.name)

    def fetch_all(self, files: Collection[StoredFile], folder: Path) -> dict[str, str | None]:
        """Fetch files to the folder; return for each name why it could not be fetched, or None."""
        problems = {file.name: file.problem for file in files}
        remote: list[RemoteFile] = []
        stores: defaultdict[str, list[StoredFile]] = defaultdict(list)
        for file in files:
            if file.problem or Path(file.address).is_relative_to(self.archives_dir):
                continue
            if isinstance(file, RemoteFile):
                remote.append(file)
            else:
                parts = urlsplit(file.address)
                stores[f"{parts.scheme or 'file'}://{parts.netloc}/"].append(file)
        for url, group in stores.items():
            try:
                storage = Storage(url, self._fetch)
            except Exception as error:  # noqa: BLE001 - every kind of storage raises its own
                reason = f"cannot be fetched: {describe(error)}"
                problems |= dict.fromkeys((file.name for file in group), reason)
            else:
                problems |= storage.fetch_all(group, folder)
        return problems | fetch.fetch_all(remote, folder, self._fetch)

    def open(self, file: StoredFile) -> AbstractContextManager[BinaryIO]:
        """Open a file to be read as a stream; raise StageError if it cannot be read."""
        return Storage(file.address, self._fetch).open(file)


Media = Storage | AddressedMedia


def fetch_media(
    media: Media, files: Collection[StoredFile], folder: Path, made: Iterable[Path] = ()
) -> dict[str, str | None]:
    """Fetch files to the folder of a source, from which all others but those `made` are removed.

    Returns:
        For each file's name: None, or why it could not be fetched.

    Raises:
        StageError: nothing can be written, as when the disk is full.
    """
    kept = {folder / file.name for file in files if not file.problem} | {*made}
    if isinstance(media, AddressedMedia):
        kept.update(media.archives_dir.rglob("*"))
    remove_others(folder, kept)
    return media.fetch_all(files, folder)


def read_addresses(url: str) -> Iterator[StoredFile]:
    """Read a list of addresses: one a line, or a CSV with a column address.

    The CSV may also have the columns name (below the folder of the source; else the last part of
    the address), sha256 or md5, and start and end (of a video of a site).

    Raises:
        StageError: it cannot be read, or a row is wrong; file and line are named.
    """
    try:
        with fsspec.open(url, "rb") as file:
            content, _ = decode_text(file.read())
    except (CaptionError, OSError, ValueError, ImportError) as error:
        raise StageError(
            f"download.sources: addresses = {url!r}: cannot be read: {describe(error)}"
        ) from error
    is_csv = "address" in [column.strip() for column in content.split("\n", 1)[0].split(",")]
    rows: Iterable[Mapping[str | Any, Any]] = (
        csv.DictReader(io.StringIO(content, newline=""))
        if is_csv
        else ({"address": line} for line in content.split("\n"))
    )
    for number, row in enumerate(rows, start=2 if is_csv else 1):
        fields = {key.strip(): (value or "").strip() for key, value in row.items() if key}
        if fields.get("address"):
            try:
                yield _read_row(fields)
            except RowError as error:
                raise StageError(f"{url} row {number}: {error}") from error


def _read_row(row: Mapping[str, str]) -> StoredFile:
    """Find out from the address what is behind it."""
    address, parts = row["address"], urlsplit(row["address"])
    name = row.get("name") or unquote(parts.path).rstrip("/").rpartition("/")[2]
    if parts.scheme not in ("http", "https"):
        return _check(StoredFile(name, address))
    digests = (row.get("sha256") or None, row.get("md5") or None)
    suffix = next((end for end in ARCHIVES if parts.path.lower().endswith(end)), None)
    if suffix:
        return RemoteArchive(row.get("name") or name[: -len(suffix)], address, *digests)
    if parts.netloc.lower().removeprefix("www.") in ("youtube.com", "youtu.be", "m.youtube.com"):
        video_id = parse_qs(parts.query).get("v", [name])[0]
        times = [read_seconds(row[key], key) if row.get(key) else None for key in ("start", "end")]
        name = row.get("name") or f"{video_id}.mp4"
        return _check(SiteVideo(name, address, None, None, *times))
    return _check(RemoteFile(name, address, *digests))


def find_videos(items: Iterable[Item]) -> Iterator[StoredFile]:
    """Yield the video of the site for each item that is one, or a part of one."""
    for item in items:
        if item.whole_video and not (item.problem or item.unused):
            times = item.part_s or (None, None)
            address = f"{YOUTUBE}{item.whole_video}"
            yield _check(SiteVideo(f"{item.names[0]}.mp4", address, None, None, *times))


def _check(file: StoredFile) -> StoredFile:
    """Return the file, with the reason where its name or its address cannot be used."""
    remote = file if isinstance(file, RemoteFile) else RemoteFile(file.name, "http://any/")
    return replace(file, problem=check_remote(remote) or check_name(file.name))
