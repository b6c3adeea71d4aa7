"""Moments in Time: 339 classes (305 in version 2) of clips of 3 s (VATT section 4.1).

The official validation list is our test split, as in the paper: the test labels are not public.
"""

from collections.abc import Iterator

from vatt.corpus.manifest import Split
from vatt.download.items import Item, Row, RowError, label, make_items, stem_of
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import MomentsInTimeSource

LISTS: tuple[tuple[Split, str, str], ...] = (
    ("train", "training", "trainingSet.csv"),
    ("test", "validation", "validationSet.csv"),
)


def read_moments_in_time(lists: OfficialLists, source: MomentsInTimeSource) -> Iterator[Item]:
    """Yield the items of both lists."""
    for split, folder, name in LISTS:
        rows = lists.read_bare_csv(lists.need(name), "path", "class")
        yield from make_items(rows, split, _make_item, split, folder, source.name)


def _make_item(row: Row, split: Split, folder: str, task: str) -> Item:
    path = row.text("path")
    stem = stem_of(path)
    if "/" not in stem:
        raise RowError(f"path = {path!r}: must be of the form class/file.mp4")
    names = (f"{folder}/{stem}", stem)
    return Item(f"{folder}/{path}", split, names, (label(task, row.text("class")),))
