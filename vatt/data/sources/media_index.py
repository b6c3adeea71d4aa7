"""Finds media files by the names that a data set gives them, in whatever folders they lie."""

import re
from collections import defaultdict
from collections.abc import Iterable

from vatt.data.sources.storage import HIDDEN, StoredFile

TITLED = re.compile(r".*\[([\w-]{11})\]", re.DOTALL)
"""`title [id].mp4`, as video sites' downloaders call their files."""


class MediaIndex:
    """The media files of a folder by their last name without suffix."""

    def __init__(self, files: Iterable[StoredFile], suffixes: frozenset[str]) -> None:
        """Index the files with one of the suffixes, in the order of their names."""
        self.files: dict[str, StoredFile] = {}
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for file in files:
            stem, _, suffix = file.name.rpartition("/")[2].rpartition(".")
            if f".{suffix.lower()}" not in suffixes or file.problem == HIDDEN:
                continue
            if file.name in self.files:
                continue
            self.files[file.name] = file
            self._by_stem[stem].append(file.name)
            titled = TITLED.fullmatch(stem)
            if titled:
                self._by_stem[titled[1]].append(file.name)

    def find(self, name: str) -> list[str]:
        """Return the files whose path without suffix is `name` or ends with `/name`."""
        folder, _, stem = name.rpartition("/")
        found = self._by_stem.get(stem, [])
        if not folder:
            return found
        return [file for file in found if f"/{file}".rpartition("/")[0].endswith(f"/{folder}")]
