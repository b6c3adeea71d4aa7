"""UCF101: 101 actions, 13,320 videos, three official folds (VATT section 4.1)."""

from collections.abc import Iterator
from functools import partial

from vatt.data.manifest import Split
from vatt.data.sources.item import Item, label, stem_of
from vatt.data.sources.labels import RowError
from vatt.data.sources.official_lists import OfficialLists, Row, make_items
from vatt.params.sources import UCF101Source


def read_ucf101(lists: OfficialLists, source: UCF101Source) -> Iterator[Item]:
    """Yield the items of the fold of the source.

    Raises:
        StageError: a list is missing or cannot be read.
    """
    splits: tuple[tuple[Split, str], ...] = (("train", "trainlist"), ("test", "testlist"))
    for split, name in splits:
        rows = lists.read_words(lists.need(f"{name}{source.fold:02d}.txt"), "path", "class_number")
        yield from make_items(rows, split, partial(_make_item, split=split, task=source.name))


def _make_item(row: Row, split: Split, task: str) -> Item:
    path = row.text("path")
    class_name, _, file = stem_of(path).rpartition("/")
    if not class_name:
        raise RowError(f"path = {path!r}: must be of the form Class/v_Class_g01_c01.avi")
    names, recording = (f"{class_name}/{file}", file), file.rpartition("_")[0]  # v_Class_g01_c01
    return Item(path, split, names, (label(task, class_name),), recording=recording or file)
