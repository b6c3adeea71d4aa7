"""Gives each item of an official list its media file, found by the names that the data set uses."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vatt.corpus.manifest import MISSING, Annotation
from vatt.download.collection import Collection, ListCounts, Outcome
from vatt.download.items import Item
from vatt.download.remote_files import HIDDEN, StoredFile
from vatt.media.decoding import MediaError, open_media

TITLED = re.compile(r".*\[([\w-]{11})\]", re.DOTALL)
"""`title [id].mp4`, as video sites' downloaders call their files."""
CLIP_TOLERANCE_S = 1.0
"""A file this much longer than the part that a list names of it is still that part alone."""


class MediaIndex:
    """The media files of a folder by their last name without suffix."""

    def __init__(self, files: Sequence[StoredFile], suffixes: frozenset[str]) -> None:
        """Index the files with one of the suffixes; they are sorted by name."""
        self.listed = files
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
    """The items of a list by their files, and what becomes of both."""

    def __init__(self, source: str, index: MediaIndex) -> None:
        self._index = index
        self._known: set[str] = set()
        self.held: defaultdict[str, list[Item]] = defaultdict(list)
        """The items of each file; `part_s` is given where it may be the whole video."""
        self._spare: dict[str, str] = {}
        """Why a file that an item could have is not used."""
        self._counts = ListCounts()
        self.collection = Collection(source, listed=self._counts)

    def add(self, item: Item) -> None:
        """Find the file of an item; without one, the item becomes a failed row."""
        if item.item_id in self._known:
            reason = f"the official list names {item.item_id} more than once; the first time counts"
            self.collection.ignore(item.item_id, reason)
            return
        self._known.add(item.item_id)
        found = (files for name in item.names if (files := self._index.find(name)))
        files, part_s = next(found, []), None
        if not files and item.whole_video:
            files, part_s = self._index.find(item.whole_video), item.part_s
        if item.unused:
            self._counts.unused += 1
            self._spare |= dict.fromkeys(files, f"is not used: {item.unused}")
        elif item.problem:
            self._fail(item, "unusable", item.problem)
        elif item.names[0].startswith("/") or ".." in item.names[0].split("/"):
            self._fail(item, "unusable", "its name leaves the folder of the media")
        elif not files:
            self._fail(item, "missing", f"{MISSING}no media file is called {item.names[0]}")
        else:
            # Names are of no more use, and those of millions of items fill the memory.
            self._assign(item._replace(names=(), part_s=part_s), files)

    def add_media(
        self,
        folder: Path,
        problems: Mapping[str, str | None],
        captions: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Add a row for each file that holds an item; `problems` say which did not come."""
        entries = self.collection.entries
        for number, row in enumerate(entries):  # names of items, which must not be those of files
            if row.video_id in self.held:
                entries[number] = replace(row, video_id=f"{row.video_id} (a row of the list)")
        for file, items in self.held.items():
            problem = problems[file]
            outcome: Outcome = "unusable" if problem else "found"
            if problem and problem.startswith(MISSING):
                outcome = "missing"
            self._counts.outcomes[items[0].split, outcome] += len(items)
            notes = () if problem else _annotate(items, folder / file)
            self.collection.add(file, items[0].split, notes, captions.get(file), problem)

    def add_others(self, problems: Mapping[str, str | None]) -> None:
        """Account for the files that hold no item."""
        seen: set[str] = set()
        for file in self._index.listed:
            if file.name in seen:
                self.collection.ignore(file.name, f"another file is called {file.name} too")
            elif file.name not in problems:
                reason = "is no media file"
                if file.name in self._index.files:
                    reason = self._spare.get(file.name, "is not in the official list")
                self.collection.ignore(file.name, file.problem or reason)
            seen.add(file.name)

    def _assign(self, item: Item, files: list[str]) -> None:
        """Give an item the first of its files, which must not be in another split."""
        file, *others = files
        first = next(iter(self.held[file]), item)
        if first.split != item.split:
            reason = f"its file {file} is in {first.split}, because of {first.item_id}"
            self._fail(item, "unusable", reason)
            return
        self.held[file].append(item)
        self._spare |= dict.fromkeys(others, f"{file} is used instead")

    def _fail(self, item: Item, outcome: Outcome, reason: str) -> None:
        self._counts.outcomes[item.split, outcome] += 1
        self.collection.add(item.item_id, item.split, reason=reason)


def _annotate(items: Sequence[Item], path: Path) -> tuple[Annotation, ...]:
    """Return the annotations of all items of a file, with times where it is a whole video."""
    annotations: list[Annotation] = []
    for item in items:
        notes = item.annotations
        if item.part_s and (len(items) > 1 or _is_longer(path, item.part_s)):
            start_s, end_s = item.part_s
            notes = tuple(replace(note, start_s=start_s, end_s=end_s) for note in notes)
        annotations.extend(notes)
    return tuple(dict.fromkeys(annotations))


def _is_longer(path: Path, part_s: tuple[float, float]) -> bool:
    """Whether a file holds more than a part of so many seconds, by its header."""
    try:
        with open_media(path) as container:
            duration_s = (container.duration or 0) / 1e6
    except MediaError:  # preprocess will say so
        return True
    return duration_s > part_s[1] - part_s[0] + CLIP_TOLERANCE_S
