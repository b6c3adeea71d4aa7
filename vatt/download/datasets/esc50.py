"""ESC-50: 2,000 sounds of 5 s, 50 classes, five official folds (VATT section 4.1)."""

from collections.abc import Iterator

from vatt.corpus.manifest import Split
from vatt.download.items import Item, Row, RowError, fold_label, label, make_items, stem_of
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import ESC50Source

FOLDS = range(1, 6)


def read_esc50(lists: OfficialLists, source: ESC50Source) -> Iterator[Item]:
    """Yield all items, of all folds: the fold of the source is the test split, the others train."""
    rows = lists.read_csv(lists.need("esc50.csv"), "filename", "fold", "category")
    return make_items(rows, "train", _make_item, source)


def _make_item(row: Row, source: ESC50Source) -> Item:
    file, own_fold = row.text("filename"), row.text("fold")
    if own_fold not in map(str, FOLDS):
        raise RowError(f"fold = {own_fold!r}: must be 1 to 5")
    splits: dict[int, Split] = {
        fold: "test" if fold == int(own_fold) else "train" for fold in FOLDS
    }
    folds = [fold_label(fold, split) for fold, split in splits.items()]
    annotations = (label(source.name, row.text("category")), *folds)
    recording = "-".join(file.split("-")[:2])  # <fold>-<recording>-<take>-<class>.wav
    return Item(file, splits[source.fold], (stem_of(file),), annotations, recording=recording)
