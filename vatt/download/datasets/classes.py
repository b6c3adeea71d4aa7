"""Data sets of classes in one split each: Charades, ImageNet and Moments in Time.

The official validation lists of the last two are our test splits, as in the paper (VATT section
4.1): their test labels are not public.
"""

from collections.abc import Iterable, Iterator

from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation, Split
from vatt.download.lists import (
    Item,
    OfficialLists,
    Row,
    RowError,
    check_part,
    label,
    make_items,
    read_seconds,
    stem_of,
)
from vatt.params.sources import CharadesSource, ImageNetSource, MomentsInTimeSource

CHARADES_LISTS: dict[Split, str] = {
    "train": "Charades_v1_train.csv",
    "test": "Charades_v1_test.csv",
}
IMAGENET_TRAIN = "train_cls.txt"
IMAGENET_KAGGLE = "LOC_val_solution.csv"
IMAGENET_IN_ORDER = "imagenet_2012_validation_synset_labels.txt"
IMAGENET_FOLDERS: dict[str, Split] = {"train": "train", "val": "test"}
MOMENTS_LISTS: tuple[tuple[Split, str, str], ...] = (
    ("train", "training", "trainingSet.csv"),
    ("test", "validation", "validationSet.csv"),
)


def read_moments_in_time(lists: OfficialLists, source: MomentsInTimeSource) -> Iterator[Item]:
    """Yield the clips of 3 s of both lists: 339 classes, 305 in version 2."""
    for split, folder, name in MOMENTS_LISTS:
        rows = lists.read_bare_csv(lists.need(name), "path", "class")
        yield from make_items(rows, split, _make_moment, split, folder, source.name)


def _make_moment(row: Row, split: Split, folder: str, task: str) -> Item:
    path = row.text("path")
    stem = stem_of(path)
    if "/" not in stem:
        raise RowError(f"path = {path!r}: must be of the form class/file.mp4")
    names = (f"{folder}/{stem}", stem)
    return Item(f"{folder}/{path}", split, names, (label(task, row.text("class")),))


def read_charades(lists: OfficialLists, source: CharadesSource) -> Iterator[Item]:
    """Yield 9,848 videos of daily life (AVBERT) with a label for each of their actions.

    A label is the code of the action (c000 to c156), and has its time.
    """
    for split, name in CHARADES_LISTS.items():
        rows = lists.read_csv(lists.need(name), "id", "actions")
        yield from make_items(rows, split, _make_day, split, source.name)


def _make_day(row: Row, split: Split, task: str) -> Item:
    video_id, labels = row.identifier("id"), []
    for action in row.fields.get("actions", "").split(";"):
        words = action.split()
        if len(words) not in (0, 3):
            raise RowError(f"actions = {action!r}: must be of the form c092 11.90 21.20")
        if words:
            start_s, end_s = (read_seconds(word, "actions") for word in words[1:])
            labels.append(Annotation(task, words[0], *check_part(start_s, end_s)))
    return Item(video_id, split, (video_id,), tuple(labels))


def read_imagenet(lists: OfficialLists, source: ImageNetSource) -> Iterator[Item]:
    """Yield the pictures of the lists, or of folders of classes where a split has no list.

    A label is the WordNet id of the class, because some of the names are not unique.
    """
    task, media = source.name, lists.media_names
    train, val = lists.find(IMAGENET_TRAIN), lists.find(IMAGENET_KAGGLE, IMAGENET_IN_ORDER)
    if not (train or val or any(_read_folders(task, media, IMAGENET_FOLDERS))):
        raise StageError(
            "download.sources: imagenet: there is no train/<wnid>/ or val/<wnid>/ in the media, and"
            f" no {IMAGENET_TRAIN}, {IMAGENET_KAGGLE} or {IMAGENET_IN_ORDER} in the annotations"
        )
    if train:
        rows = lists.read_words(train, "path")
        yield from make_items(rows, "train", _make_train_picture, task)
    if val and val.endswith(IMAGENET_KAGGLE):
        rows = lists.read_csv(val, "ImageId", "PredictionString")
        yield from make_items(rows, "test", _make_val_picture, task)
    elif val:
        yield from make_items(lists.read_words(val, "wnid"), "test", _make_val_picture, task)
    listed = {"train": train, "val": val}
    folders = [folder for folder in IMAGENET_FOLDERS if not listed[folder]]
    yield from _read_folders(task, media, folders)


def _make_train_picture(row: Row, task: str) -> Item:
    path = row.text("path")
    wnid, _, _ = path.rpartition("/")
    if not wnid:
        raise RowError(f"path = {path!r}: must be of the form n01440764/n01440764_10026")
    return Item(f"train/{path}", "train", (f"train/{path}", path), (label(task, wnid),))


def _make_val_picture(row: Row, task: str) -> Item:
    """Make an item of a row of Kaggle's list, or of the list of the classes in order."""
    if "wnid" in row.fields:
        name, wnid = f"ILSVRC2012_val_{row.line:08d}", row.text("wnid")
    else:
        name, wnid = row.text("ImageId"), row.text("PredictionString").split()[0]
    names = (f"val/{wnid}/{name}", f"{wnid}/{name}", f"val/{name}", name)
    return Item(f"val/{name}", "test", names, (label(task, wnid),))


def _read_folders(task: str, media: Iterable[str], folders: Iterable[str]) -> Iterator[Item]:
    """Yield the pictures in `train/<wnid>/` or `val/<wnid>/`."""
    for path in media:
        folder, wnid, name = ["", "", *path.split("/")][-3:]
        if folder in folders and wnid:
            item_id, split = f"{folder}/{wnid}/{name}", IMAGENET_FOLDERS[folder]
            yield Item(item_id, split, (stem_of(item_id),), (label(task, wnid),))
