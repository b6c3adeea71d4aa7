"""ESC-50: 2,000 sounds of 5 s, 50 classes, five official folds (VATT section 4.1)."""

from collections.abc import Iterator
from functools import partial

from vatt.data.manifest import Split
from vatt.data.sources.item import Item, label, stem_of
from vatt.data.sources.labels import RowError
from vatt.data.sources.official_lists import OfficialLists, Row, make_items
from vatt.params.sources import ESC50Source

FOLDS = frozenset("12345")


def read_esc50(lists: OfficialLists, source: ESC50Source) -> Iterator[Item]:
    """Yield all items: one fold is the test split, the other four are training data.

    Raises:
        StageError: the list is missing or cannot be read.
    """
    rows = lists.read_csv(lists.need("esc50.csv"), "filename", "fold", "category")
    return make_items(rows, "train", partial(_make_item, source=source))


def _make_item(row: Row, source: ESC50Source) -> Item:
    file, fold = row.text("filename"), row.text("fold")
    if fold not in FOLDS:
        raise RowError(f"fold = {fold!r}: must be 1 to 5")
    split: Split = "test" if int(fold) == source.fold else "train"
    recording = "-".join(file.split("-")[:2])  # <fold>-<recording>-<take>-<class>.wav
    labels = (label(source.name, row.text("category")),)
    return Item(file, split, (stem_of(file),), labels, recording=recording)
