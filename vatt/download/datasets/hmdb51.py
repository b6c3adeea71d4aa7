"""HMDB51: 51 actions, 6,766 videos, three official folds of 70 and 30 a class (section 4.1)."""

from collections.abc import Iterator

from vatt.corpus.manifest import Annotation, Split
from vatt.download.items import Item, Row, RowError, fold_label, label, make_items, stem_of
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import HMDB51Source

FOLDS = (1, 2, 3)
SPLITS: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}

Folds = dict[str, list[Annotation]]
"""What a file is for in each fold that uses it."""


def read_hmdb51(lists: OfficialLists, source: HMDB51Source) -> Iterator[Item]:
    """Yield the items of the chosen fold; labels say what each item is for in every fold.

    Those that it leaves out are its validation split, if another fold uses them: else unused.
    """
    names = lists.find_all(_ending(source.fold))
    if not names:
        lists.need(f"<class>{_ending(source.fold)}")
    for name in names:
        class_name = name.rpartition("/")[2].removesuffix(_ending(source.fold))
        folds = _read_folds(lists, name.removesuffix(_ending(source.fold)))
        rows = lists.read_words(name, "file", "code")
        yield from make_items(rows, "train", _make_item, class_name, source.name, folds)


def _ending(fold: int) -> str:
    return f"_test_split{fold}.txt"


def _read_folds(lists: OfficialLists, stem: str) -> Folds:
    """Return what the files of a class are for, in the folds whose lists are there."""
    folds: Folds = {}
    for fold in FOLDS:
        name = stem + _ending(fold)
        for row in lists.read_words(name, "file", "code") if name in lists.files else ():
            split = SPLITS.get(row.fields.get("code", ""))
            if split:
                folds.setdefault(row.fields["file"], []).append(fold_label(fold, split))
    return folds


def _make_item(row: Row, class_name: str, task: str, folds: Folds) -> Item:
    file, code = row.text("file"), row.text("code")
    if code not in SPLITS:
        raise RowError(f"code = {code!r}: must be 0 (unused), 1 (train) or 2 (test)")
    stem, uses = stem_of(file), folds.get(file, ())
    return Item(
        f"{class_name}/{file}",
        SPLITS[code] or "validation",
        (f"{class_name}/{stem}", stem),
        (label(task, class_name), *uses),
        recording=stem.partition(f"_{class_name}_")[0],  # <recording>_<class>_..._<clip>.avi
        unused=None if SPLITS[code] or uses else "in no list of any fold",
    )
