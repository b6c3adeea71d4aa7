"""HMDB51: 51 actions, 6,766 videos, three official folds of 70 and 30 a class (VATT section 4.1)."""

from collections.abc import Iterator
from functools import partial

from vatt.data.manifest import Split
from vatt.data.sources.item import Item, label, stem_of
from vatt.data.sources.labels import RowError
from vatt.data.sources.official_lists import OfficialLists, Row, make_items
from vatt.params.sources import HMDB51Source

SPLITS: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}


def read_hmdb51(lists: OfficialLists, source: HMDB51Source) -> Iterator[Item]:
    """Yield the items of the fold of the source; those that it leaves out have no split.

    Raises:
        StageError: there is no list of this fold, or it cannot be read.
    """
    ending = f"_test_split{source.fold}.txt"
    names = lists.find_all(ending)
    if not names:
        lists.need(f"<class>{ending}")
    for name in names:
        class_name = name.rpartition("/")[2].removesuffix(ending)
        make = partial(_make_item, class_name=class_name, source=source)
        yield from make_items(lists.read_words(name, "file", "code"), "train", make)


def _make_item(row: Row, class_name: str, source: HMDB51Source) -> Item:
    file, code = row.text("file"), row.text("code")
    if code not in SPLITS:
        raise RowError(f"code = {code!r}: must be 0 (unused), 1 (train) or 2 (test)")
    stem = stem_of(file)
    return Item(
        f"{class_name}/{file}",
        SPLITS[code],
        (f"{class_name}/{stem}", stem),
        (label(source.name, class_name),),
        recording=stem.partition(f"_{class_name}_")[0],  # <recording>_<class>_..._<clip>.avi
        problem=None if SPLITS[code] else f"in neither list of fold {source.fold}",
    )
