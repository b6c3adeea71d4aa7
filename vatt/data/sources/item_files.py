"""Gives each item of an official list its media file; says which items have none."""

from collections import defaultdict
from typing import NamedTuple

from vatt.data.manifest import MISSING, Annotation, ManifestEntry, Split
from vatt.data.sources.collection import IgnoredFile, ListCounts, Outcome
from vatt.data.sources.item import Item
from vatt.data.sources.media_index import MediaIndex


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
