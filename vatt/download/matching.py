"""Gives each item of an official list its media file, found by the names that the data set uses."""

import re
from collections import defaultdict
from collections.abc import Iterable

from vatt.corpus.manifest import MISSING, ManifestEntry
from vatt.download.collection import Collection, IgnoredFile, ListCounts, Outcome
from vatt.download.items import Item
from vatt.download.remote_files import HIDDEN, StoredFile

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
            is_media = f".{suffix.lower()}" in suffixes and file.problem != HIDDEN
            if not is_media or file.name in self.files:
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


class ItemFiles:
    """The items of a list by their files."""

    def __init__(self, source: str, index: MediaIndex) -> None:
        self.source, self._index = source, index
        self._known: set[str] = set()
        self.held: defaultdict[str, list[Item]] = defaultdict(list)
        """The items of each file; `part_s` is given where it may be the whole video."""
        self.spare: dict[str, str] = {}
        """Why a file that an item could have is not used."""
        self.counts = ListCounts()
        self.collection = Collection(listed=self.counts)
        """Items without a file, and rows that name an item again."""

    def add(self, item: Item) -> None:
        """Find the file of an item; without one, the item becomes a failed row."""
        if item.item_id in self._known:
            reason = f"the official list names {item.item_id} more than once; the first time counts"
            self.collection.ignored.append(IgnoredFile(self.source, item.item_id, reason))
            return
        self._known.add(item.item_id)
        found = (files for name in item.names if (files := self._index.find(name)))
        files = next(found, [])
        part_s = None
        if not files and item.whole_video:
            files, part_s = self._index.find(item.whole_video), item.part_s
        if item.unused:
            self.counts.unused += 1
            self.spare |= dict.fromkeys(files, f"is not used: {item.unused}")
        elif item.problem:
            self._fail(item, "unusable", item.problem)
        elif item.names[0].startswith("/") or ".." in item.names[0].split("/"):
            self._fail(item, "unusable", "its name leaves the folder of the media")
        elif not files:
            self._fail(item, "missing", f"{MISSING}no media file is called {item.names[0]}")
        else:
            self._assign(item._replace(names=(), part_s=part_s), files)

    def count(self, file: str, problem: str | None) -> None:
        """Count what became of the items of a file that came or, for the reason given, did not."""
        outcome: Outcome = "unusable" if problem else "found"
        if problem and problem.startswith(MISSING):
            outcome = "missing"
        self.counts.outcomes[self.held[file][0].split, outcome] += len(self.held[file])

    def _assign(self, item: Item, files: list[str]) -> None:
        """Give an item the first of its files, which must not be in another split."""
        file, *others = files
        first = next(iter(self.held[file]), item)
        if first.split != item.split:
            reason = f"its file {file} is in {first.split}, because of {first.item_id}"
            self._fail(item, "unusable", reason)
            return
        self.held[file].append(item)
        self.spare |= dict.fromkeys(others, f"{file} is used instead")

    def _fail(self, item: Item, outcome: Outcome, reason: str) -> None:
        self.counts.outcomes[item.split, outcome] += 1
        self.collection.entries.append(
            ManifestEntry(self.source, item.item_id, item.split, "failed", reason=reason)
        )
