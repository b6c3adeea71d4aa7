"""UCF101: 101 actions, 13,320 videos, three official folds (VATT section 4.1)."""

from collections.abc import Iterator

from vatt.corpus.manifest import Annotation, Split
from vatt.download.items import Item, Row, RowError, fold_label, label, make_items, stem_of
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import UCF101Source

FOLDS = (1, 2, 3)
LISTS: dict[str, Split] = {"trainlist": "train", "testlist": "test"}


def read_ucf101(lists: OfficialLists, source: UCF101Source) -> Iterator[Item]:
    """Yield the items of the chosen fold; labels say what each item is for in every fold.

    Every fold has all videos.
    """
    folds = _read_folds(lists)
    for name, split in LISTS.items():
        rows = lists.read_words(lists.need(f"{name}{source.fold:02d}.txt"), "path", "class_number")
        yield from make_items(rows, split, _make_item, split, source.name, folds)


def _read_folds(lists: OfficialLists) -> dict[str, list[Annotation]]:
    """Return what each video is for, in the folds whose lists are there."""
    folds: dict[str, list[Annotation]] = {}
    for fold in FOLDS:
        found = {split: lists.find(f"{name}{fold:02d}.txt") for name, split in LISTS.items()}
        for split, file in found.items():
            for row in lists.read_words(file, "path") if file and all(found.values()) else ():
                folds.setdefault(row.fields.get("path", ""), []).append(fold_label(fold, split))
    return folds


def _make_item(row: Row, split: Split, task: str, folds: dict[str, list[Annotation]]) -> Item:
    path = row.text("path")
    class_name, _, file = stem_of(path).rpartition("/")
    if not class_name:
        raise RowError(f"path = {path!r}: must be of the form Class/v_Class_g01_c01.avi")
    names, recording = (f"{class_name}/{file}", file), file.rpartition("_")[0]  # v_Class_g01_c01
    annotations = (label(task, class_name), *folds.get(path, ()))
    return Item(path, split, names, annotations, recording=recording or file)
