"""Addresses in place of a folder of media: files, archives of them, videos of a site."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec

from vatt.core.errors import StageError
from vatt.download import fetch
from vatt.download.items import Item
from vatt.download.labels import RowError
from vatt.download.ledger import RemoteArchive, RemoteFile, SiteVideo, describe
from vatt.download.official_lists import read_seconds
from vatt.download.storage import HIDDEN, Storage, StoredFile
from vatt.media.captions import CaptionError, decode_text
from vatt.params import FetchParams

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
YOUTUBE = "https://www.youtube.com/watch?v="


class AddressedMedia:
    """Media files by their addresses; they are fetched to `folder`."""

    def __init__(
        self, files: Iterable[RemoteFile | StoredFile], folder: Path, fetch: FetchParams
    ) -> None:
        self._folder, self._fetch = folder, fetch
        self._archives: dict[str, RemoteArchive] = {}
        self._remote: dict[tuple[str, str], RemoteFile] = {}
        self._listed: list[StoredFile] = []
        for file in files:
            if isinstance(file, RemoteArchive):
                self._archives.setdefault(file.name, file)
                continue
            if isinstance(file, RemoteFile):
                self._remote.setdefault((file.name, file.address), file)
                file = StoredFile(file.name, file.address, _find_problem(file))  # noqa: PLW2901
            self._listed.append(file)

    @property
    def archives_dir(self) -> Path:
        """Where archives are unpacked; what is in no list stays there, another fold may need it."""
        return self._folder / f"{self._folder.name}_archives"

    def list_files(self) -> list[StoredFile]:
        """Fetch and unpack the archives; return all files, sorted by name."""
        listed = [*self._listed, *self._unpack()] if self._archives else self._listed
        return sorted(listed, key=lambda file: file.name)

    def fetch_all(
        self, files: Iterable[StoredFile], folder: Path, title: str
    ) -> dict[str, str | None]:
        """Fetch files to the folder; return for each name why it could not be fetched, or None."""
        problems: dict[str, str | None] = {}
        remote: list[RemoteFile] = []
        stores: defaultdict[str, list[StoredFile]] = defaultdict(list)
        for file in files:
            if file.problem or Path(file.address).is_relative_to(self.archives_dir):
                problems[file.name] = file.problem
            elif (file.name, file.address) in self._remote:
                remote.append(self._remote[file.name, file.address])
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
                problems |= storage.fetch_all(group, folder, title)
        return problems | fetch.fetch_all(remote, folder, self._fetch)

    def read(self, file: StoredFile) -> bytes:
        """Read a small file whole.

        Raises:
            StageError: it cannot be read.
        """
        return Storage(file.address, self._fetch).read(file)

    def open(self, file: StoredFile) -> AbstractContextManager[BinaryIO]:
        """Open a file of any size to be read as a stream.

        Raises:
            StageError: it cannot be read.
        """
        return Storage(file.address, self._fetch).open(file)

    def _unpack(self) -> Iterator[StoredFile]:
        """Yield the files of the archives, and the archives that cannot be had."""
        problems = fetch.fetch_all(list(self._archives.values()), self.archives_dir, self._fetch)
        for name, problem in problems.items():
            if problem:
                yield StoredFile(self._archives[name].address, "", problem)
            for path in sorted((self.archives_dir / name).rglob("*")):
                if path.is_file():
                    member = path.relative_to(self._folder).as_posix()
                    yield StoredFile(member, str(path), _find_hidden(member))


def read_addresses(url: str) -> Iterator[RemoteFile | StoredFile]:
    """Read a list of addresses: one a line, or a CSV with a column address.

    The CSV may also have the columns name (below the folder of the source; else the last part of
    the address), sha256 or md5, and start and end (of a video of a site).

    Raises:
        StageError: it cannot be read, or a row is wrong; file and line are named.
    """
    try:
        with fsspec.open(url, "rb") as file:
            content = decode_text(file.read())
    except (CaptionError, OSError, ValueError, ImportError) as error:
        raise StageError(
            f"download.sources: addresses = {url!r}: cannot be read: {describe(error)}"
        ) from error
    header = [column.strip() for column in content.split("\n", 1)[0].split(",")]
    rows: Iterable[Mapping[str | Any, Any]] = (
        csv.DictReader(io.StringIO(content, newline=""))
        if "address" in header
        else ({"address": line} for line in content.split("\n"))
    )
    for number, row in enumerate(rows, start=2 if "address" in header else 1):
        fields = {key.strip(): (value or "").strip() for key, value in row.items() if key}
        if fields.get("address"):
            try:
                yield _read_row(fields)
            except RowError as error:
                raise StageError(f"{url} row {number}: {error}") from error


def find_videos(items: Iterable[Item]) -> Iterator[SiteVideo]:
    """Yield the video of the site for each item that is one, or a part of one."""
    for item in items:
        if item.whole_video and not item.problem:
            start_s, end_s = item.part_s or (None, None)
            address = f"{YOUTUBE}{item.whole_video}"
            yield SiteVideo(f"{item.names[0]}.mp4", address, start_s=start_s, end_s=end_s)


def _read_row(row: Mapping[str, str]) -> RemoteFile | StoredFile:
    """Tell from the address what is behind it."""
    address, parts = row["address"], urlsplit(row["address"])
    name = row.get("name") or unquote(parts.path).rstrip("/").rpartition("/")[2]
    if parts.scheme not in ("http", "https"):
        return StoredFile(name, address, _find_problem(RemoteFile(name, "http://here/")))
    digests = (row.get("sha256") or None, row.get("md5") or None)
    suffix = next((end for end in ARCHIVES if parts.path.lower().endswith(end)), None)
    if suffix:
        return RemoteArchive(row.get("name") or name[: -len(suffix)], address, *digests)
    if parts.netloc.lower().removeprefix("www.") in ("youtube.com", "youtu.be", "m.youtube.com"):
        video_id = parse_qs(parts.query).get("v", [name])[0]
        times = [read_seconds(row[key], key) if row.get(key) else None for key in ("start", "end")]
        return SiteVideo(row.get("name") or f"{video_id}.mp4", address, None, None, *times)
    return RemoteFile(name, address, *digests)


def _find_problem(file: RemoteFile) -> str | None:
    return file.problem() or _find_hidden(file.name)


def _find_hidden(name: str) -> str | None:
    return HIDDEN if any(part.startswith(".") for part in name.split("/")) else None
