"""A list of addresses in place of a folder of media."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fsspec

from vatt.data.captions import CaptionError, decode_text
from vatt.data.sources.fetching.remote_file import describe
from vatt.data.sources.storage import HIDDEN, Storage, StoredFile
from vatt.params import StageError


class AddressList:
    """Media files by their addresses: one a line, or a CSV with the columns address and name."""

    def __init__(self, url: str) -> None:
        """Read the list from a path or any fsspec address.

        Raises:
            StageError: it cannot be read.
        """
        try:
            with fsspec.open(url, "rb") as file:
                content = decode_text(file.read())
        except (CaptionError, OSError, ValueError, ImportError) as error:
            raise StageError(
                f"download.sources: addresses = {url!r}: cannot be read: {describe(error)}"
            ) from error
        header = [column.strip() for column in content.split("\n", 1)[0].split(",")]
        if "address" in header:
            rows = [
                (row.get("name") or "", row.get("address") or "")
                for row in csv.DictReader(io.StringIO(content, newline=""))
            ]
        else:
            rows = [("", line) for line in content.split("\n")]
        self._files = sorted(
            (_describe(name.strip(), address.strip()) for name, address in rows if address.strip()),
            key=lambda file: (file.name, file.address),
        )

    def list_files(self) -> list[StoredFile]:
        """Return a file for each address, sorted by name."""
        return self._files

    def fetch_all(
        self, files: Iterable[StoredFile], folder: Path, title: str
    ) -> dict[str, str | None]:
        """Fetch files, host by host, as `Storage.fetch_all` does."""
        hosts: defaultdict[str, list[StoredFile]] = defaultdict(list)
        for file in files:
            parts = urlsplit(file.address)
            hosts[f"{parts.scheme or 'file'}://{parts.netloc}/"].append(file)
        problems: dict[str, str | None] = {}
        for host, group in hosts.items():
            problems |= Storage(host).fetch_all(group, folder, title)
        return problems


def _describe(name: str, address: str) -> StoredFile:
    """Name a file as its row says, else after the last part of its address."""
    name = name or unquote(urlsplit(address).path).rstrip("/").rpartition("/")[2]
    parts = name.split("/")
    problem = None
    if "\0" in name or "\\" in name or {"", ".", ".."} & set(parts):
        problem = "the name leaves the folder"
    elif any(part.startswith(".") for part in parts):
        problem = HIDDEN
    return StoredFile(name, address, problem)
