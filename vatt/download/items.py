"""An item of a data set's official list: where its file may be, and what is known of it.

Finds media files by the names that a data set gives them, in whatever folders they lie.

Gives each item of an official list its media file; says which items have none.

What a source brings: rows of the manifest, files that are no input, and counts.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, get_args

from vatt.corpus.manifest import (
    FOLD_TASK,
    MISSING,
    Annotation,
    CaptionsFormat,
    ManifestEntry,
    Split,
)
from vatt.download.storage import HIDDEN, StoredFile

Outcome = Literal["found", "missing", "unusable"]


class IgnoredFile(NamedTuple):
    """A file, or a row of an official list, that is no input."""

    source: str
    path: str
    reason: str


class Captions(NamedTuple):
    """The three caption fields of a manifest row."""

    path: str | None = None
    format: CaptionsFormat | None = None
    problem: str | None = None


@dataclass
class ListCounts:
    """What became of the items of a data set's official list."""

    outcomes: Counter[tuple[Split, Outcome]] = field(default_factory=Counter)
    unused: int = 0
    """Items that this fold or protocol leaves out."""

    def to_metrics(self) -> dict[str, Any]:
        """Return listed = found + missing + unusable, in all and by split, and what is unused."""
        splits = [
            split for split in get_args(Split) if any(key[0] == split for key in self.outcomes)
        ]
        by_split = {split: self._sum([split]) for split in splits}
        return {**self._sum(splits), "unused": self.unused, "by_split": by_split}

    def _sum(self, splits: list[Split]) -> dict[str, int]:
        counts = {
            outcome: sum(self.outcomes[split, outcome] for split in splits)
            for outcome in get_args(Outcome)
        }
        return {"listed": sum(counts.values()), **counts}


@dataclass
class Collection:
    """What a source holds: a row for each input, and the files that are none."""

    entries: list[ManifestEntry] = field(default_factory=list)
    ignored: list[IgnoredFile] = field(default_factory=list)
    listed: ListCounts | None = None
    """Only where there is an official list."""


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


class Item(NamedTuple):
    """One item of the list, or one row of it that cannot be used."""

    item_id: str
    """Unique within the data set; names the item where it has no file."""
    split: Split | None
    """None: not used, for the reason in `problem`."""
    names: tuple[str, ...] = ()
    """What a file of this item alone may be called: ends of paths without suffix, best first."""
    annotations: tuple[Annotation, ...] = ()
    whole_video: str | None = None
    """What the video may be called of which the item is a part."""
    part_s: tuple[float, float] | None = None
    """Start and end of the item in `whole_video`."""
    recording: str | None = None
    """What it shares with the items cut from the same recording, which stay in one split; None: see
    `whole_video`, and where that is None, too, it is a recording of its own."""
    problem: str | None = None
    """Why the list itself makes the item unusable."""


@lru_cache(maxsize=4096)
def label(task: str, name: str) -> Annotation:
    """Return the label of a whole file; equal ones are one object, since lists have millions."""
    return Annotation(task, name)


@lru_cache(maxsize=64)
def fold_label(fold: int, split: Split) -> Annotation:
    """Return what a whole file is for in an official fold: `train` or `test`."""
    return Annotation(FOLD_TASK, f"{fold}:{split}")


def stem_of(path: str) -> str:
    """Return a path without suffix: media are often converted, so that theirs says little."""
    return str(PurePosixPath(path).with_suffix("")) if PurePosixPath(path).name else path


class Claim(NamedTuple):
    """An item that a file holds."""

    item_id: str
    split: Split
    annotations: tuple[Annotation, ...]
    part_s: tuple[float, float] | None
    """Start and end, where the file may be the whole video that the item is a part of."""


class ItemFiles:
    """The items of a list by their files."""

    def __init__(self, source: str, index: MediaIndex) -> None:
        self._source = source
        self._index = index
        self._known: set[str] = set()
        self.claims: defaultdict[str, list[Claim]] = defaultdict(list)
        """The items of each file."""
        self.failed: list[ManifestEntry] = []
        self.ignored: list[IgnoredFile] = []
        """Rows of the list that name an item again."""
        self.spare: dict[str, str] = {}
        """Why a file that an item could have is not used."""
        self.counts = ListCounts()

    def add(self, item: Item) -> None:
        """Find the file of an item; without one, the item becomes a failed row."""
        if item.item_id in self._known:
            reason = f"the official list names {item.item_id} more than once; the first time counts"
            self.ignored.append(IgnoredFile(self._source, item.item_id, reason))
            return
        self._known.add(item.item_id)
        files, is_part = self._find(item)
        if item.split is None:
            self.counts.unused += 1
            self.spare |= dict.fromkeys(files, f"is not used: {item.problem}")
        elif item.problem:
            self._fail(item, item.split, "unusable", item.problem)
        elif _leaves_folder(item.names[0]):
            self._fail(item, item.split, "unusable", "its name leaves the folder of the media")
        elif not files:
            name = item.names[0]
            self._fail(item, item.split, "missing", f"{MISSING}no media file is called {name}")
        else:
            self._claim(item, item.split, files, is_part)

    def count(self, claims: list[Claim], problem: str | None) -> None:
        """Count what became of the items of a file that could, or could not, be had."""
        outcome: Outcome = "unusable" if problem else "found"
        if problem and problem.startswith(MISSING):
            outcome = "missing"
        self.counts.outcomes[claims[0].split, outcome] += len(claims)

    def _find(self, item: Item) -> tuple[list[str], bool]:
        """Return the files of an item, and whether they may hold more than it."""
        for name in item.names:
            files = self._index.find(name)
            if files:
                return files, False
        return (self._index.find(item.whole_video) if item.whole_video else []), True

    def _claim(self, item: Item, split: Split, files: list[str], is_part: bool) -> None:
        """Give an item the first of its files, which must not be in another split."""
        file = files[0]
        claims = self.claims[file]
        if claims and claims[0].split != split:
            reason = f"its file {file} is in {claims[0].split}, because of {claims[0].item_id}"
            self._fail(item, split, "unusable", reason)
            return
        part_s = item.part_s if is_part else None
        claims.append(Claim(item.item_id, split, item.annotations, part_s))
        self.spare |= dict.fromkeys(files[1:], f"{file} is used instead")

    def _fail(self, item: Item, split: Split, outcome: Outcome, reason: str) -> None:
        self.counts.outcomes[split, outcome] += 1
        self.failed.append(
            ManifestEntry(self._source, item.item_id, split, "failed", reason=reason)
        )


def _leaves_folder(name: str) -> bool:
    return name.startswith("/") or (".." in name and ".." in name.split("/"))
