"""ImageNet: 1.28 million training, 50,000 validation pictures of 1,000 classes (VATT section 4.1).

A label is the WordNet id of the class, because some of the names are not unique. The official
validation list is our test split: the test labels are not public.
"""

from collections.abc import Iterable, Iterator

from vatt.core.errors import StageError
from vatt.corpus.manifest import Split
from vatt.download.items import Item, Row, RowError, label, make_items, stem_of
from vatt.download.official_lists import OfficialLists
from vatt.params.sources import ImageNetSource

TRAIN_LIST = "train_cls.txt"
KAGGLE_LIST = "LOC_val_solution.csv"
CLASSES_IN_ORDER = "imagenet_2012_validation_synset_labels.txt"
FOLDERS: dict[str, Split] = {"train": "train", "val": "test"}


def read_imagenet(lists: OfficialLists, source: ImageNetSource) -> Iterator[Item]:
    """Yield the pictures of the lists, or of folders of classes where a split has no list."""
    task, media = source.name, lists.media_names
    train, val = lists.find(TRAIN_LIST), lists.find(KAGGLE_LIST, CLASSES_IN_ORDER)
    if not (train or val or any(_of_folders(task, media, FOLDERS))):
        raise StageError(
            "download.sources: imagenet: there is no train/<wnid>/ or val/<wnid>/ in the media, "
            f"and no {TRAIN_LIST}, {KAGGLE_LIST} or {CLASSES_IN_ORDER} in the annotations"
        )
    if train:
        yield from make_items(lists.read_words(train, "path"), "train", _of_train, task)
    if val and val.endswith(KAGGLE_LIST):
        rows = lists.read_csv(val, "ImageId", "PredictionString")
        yield from make_items(rows, "test", _of_kaggle, task)
    elif val:
        yield from make_items(lists.read_words(val, "wnid"), "test", _in_order, task)
    listed = {"train": train, "val": val}
    yield from _of_folders(task, media, [folder for folder in FOLDERS if not listed[folder]])


def _of_train(row: Row, task: str) -> Item:
    path = row.text("path")
    wnid, _, _ = path.rpartition("/")
    if not wnid:
        raise RowError(f"path = {path!r}: must be of the form n01440764/n01440764_10026")
    return Item(f"train/{path}", "train", (f"train/{path}", path), (label(task, wnid),))


def _of_kaggle(row: Row, task: str) -> Item:
    return _of_val(task, row.text("ImageId"), row.text("PredictionString").split()[0])


def _in_order(row: Row, task: str) -> Item:
    return _of_val(task, f"ILSVRC2012_val_{row.line:08d}", row.text("wnid"))


def _of_val(task: str, name: str, wnid: str) -> Item:
    names = (f"val/{wnid}/{name}", f"{wnid}/{name}", f"val/{name}", name)
    return Item(f"val/{name}", "test", names, (label(task, wnid),))


def _of_folders(task: str, media: Iterable[str], folders: Iterable[str]) -> Iterator[Item]:
    """Yield the pictures in `train/<wnid>/` or `val/<wnid>/`."""
    for path in media:
        folder, wnid, name = ["", "", *path.split("/")][-3:]
        if folder in folders and wnid:
            names = (f"{folder}/{wnid}/{stem_of(name)}",)
            yield Item(f"{folder}/{wnid}/{name}", FOLDERS[folder], names, (label(task, wnid),))
