"""Data sets with official folds: ESC-50, HMDB51 and UCF101 (VATT section 4.1).

Their items are those of the fold that the source names; labels say what an item is for in each fold
whose lists are there.
"""

from collections.abc import Iterator

from vatt.corpus.manifest import Annotation, Split
from vatt.download.lists import (
    Item,
    OfficialLists,
    Row,
    RowError,
    fold_label,
    label,
    make_items,
    stem_of,
)
from vatt.params.sources import ESC50Source, HMDB51Source, UCF101Source

HMDB51_SPLITS: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}
UCF101_LISTS: dict[str, Split] = {"trainlist": "train", "testlist": "test"}
FOLDS = (1, 2, 3)
"""Those of HMDB51 and UCF101."""

Folds = dict[str, list[Annotation]]
"""What each file is for in the folds that use it."""


def read_esc50(lists: OfficialLists, source: ESC50Source) -> Iterator[Item]:
    """Yield the 2,000 sounds of 5 s: the fold of the source is the test split, the others train."""
    rows = lists.read_csv(lists.need("esc50.csv"), "filename", "fold", "category")
    return make_items(rows, "train", _make_sound, source)


def _make_sound(row: Row, source: ESC50Source) -> Item:
    file, own_fold = row.text("filename"), row.text("fold")
    if own_fold not in list("12345"):
        raise RowError(f"fold = {own_fold!r}: must be 1 to 5")
    splits: dict[int, Split] = {
        fold: "test" if fold == int(own_fold) else "train" for fold in range(1, 6)
    }
    folds = [fold_label(fold, split) for fold, split in splits.items()]
    annotations = (label(source.name, row.text("category")), *folds)
    recording = "-".join(file.split("-")[:2])  # <fold>-<recording>-<take>-<class>.wav
    return Item(file, splits[source.fold], (stem_of(file),), annotations, recording=recording)


def read_hmdb51(lists: OfficialLists, source: HMDB51Source) -> Iterator[Item]:
    """Yield the items of the chosen fold, of 6,766 videos of 51 actions.

    Those that it leaves out are its validation split, if another fold uses them: else unused.
    """
    endings = {fold: f"_test_split{fold}.txt" for fold in FOLDS}
    ending = endings[source.fold]
    names = lists.find_all(ending)
    if not names:
        lists.need(f"<class>{ending}")
    for name in names:
        folds: Folds = {}
        for fold in FOLDS:
            path = name.removesuffix(ending) + endings[fold]
            for row in lists.read_words(path, "file", "code") if path in lists.files else ():
                if split := HMDB51_SPLITS.get(row.fields.get("code", "")):
                    folds.setdefault(row.fields["file"], []).append(fold_label(fold, split))
        class_name = name.rpartition("/")[2].removesuffix(ending)
        rows = lists.read_words(name, "file", "code")
        yield from make_items(rows, "train", _make_of_class, class_name, source.name, folds)


def _make_of_class(row: Row, class_name: str, task: str, folds: Folds) -> Item:
    file, code = row.text("file"), row.text("code")
    if code not in HMDB51_SPLITS:
        raise RowError(f"code = {code!r}: must be 0 (unused), 1 (train) or 2 (test)")
    stem, uses, split = stem_of(file), folds.get(file, ()), HMDB51_SPLITS[code]
    return Item(
        f"{class_name}/{file}",
        split or "validation",
        (f"{class_name}/{stem}", stem),
        (label(task, class_name), *uses),
        recording=stem.partition(f"_{class_name}_")[0],  # <recording>_<class>_..._<clip>.avi
        unused=None if split or uses else "in no list of any fold",
    )


def read_ucf101(lists: OfficialLists, source: UCF101Source) -> Iterator[Item]:
    """Yield the items of the chosen fold: each fold has all 13,320 videos of 101 actions."""
    folds: Folds = {}
    for fold in FOLDS:
        found = {split: lists.find(f"{name}{fold:02d}.txt") for name, split in UCF101_LISTS.items()}
        for split, file in found.items():
            for row in lists.read_words(file, "path") if file and all(found.values()) else ():
                folds.setdefault(row.fields.get("path", ""), []).append(fold_label(fold, split))
    for name, split in UCF101_LISTS.items():
        rows = lists.read_words(lists.need(f"{name}{source.fold:02d}.txt"), "path", "class_number")
        yield from make_items(rows, split, _make_of_path, split, source.name, folds)


def _make_of_path(row: Row, split: Split, task: str, folds: Folds) -> Item:
    path = row.text("path")
    class_name, _, file = stem_of(path).rpartition("/")
    if not class_name:
        raise RowError(f"path = {path!r}: must be of the form Class/v_Class_g01_c01.avi")
    names, recording = (f"{class_name}/{file}", file), file.rpartition("_")[0]  # v_Class_g01_c01
    annotations = (label(task, class_name), *folds.get(path, ()))
    return Item(path, split, names, annotations, recording=recording or file)
