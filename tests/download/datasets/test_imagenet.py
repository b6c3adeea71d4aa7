"""ImageNet: classes as folders, or the lists of ILSVRC with flat pictures."""

from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect, write_lists, write_media
from vatt.core.errors import StageError

VAL = "ILSVRC2012_val_0000000{}"


def test_folders_of_classes_are_the_list(tmp_path: Path) -> None:
    names = {
        "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG": "train",
        "ILSVRC/Data/CLS-LOC/val/n01751748/ILSVRC2012_val_00000001.JPEG": "test",
    }
    write_media(tmp_path / "media", *names, "test/n01440764/x.JPEG", "train/loose.JPEG", "a.mp4")
    collection = collect(tmp_path, "imagenet")
    assert collection.splits == names
    assert sorted(collection.labels.values()) == [["n01440764"], ["n01751748"]]
    assert collection.ignored == {
        "a.mp4": "is no media file",
        "test/n01440764/x.JPEG": "is not in the official list",
        "train/loose.JPEG": "is not in the official list",
    }


def test_lists_of_ilsvrc(tmp_path: Path) -> None:
    lists = {
        "ImageSets/CLS-LOC/train_cls.txt": (
            "n01440764/n01440764_10026 1\nn01440764/n01440764_10027 2\nbare 3\n"
        ),
        "LOC_val_solution.csv": (
            "ImageId,PredictionString\n"
            f"{VAL.format(1)},n01751748 111 108 230 289 \n"
            f"{VAL.format(2)},n09193705 0 0 374 499 \n"
        ),
    }
    write_lists(tmp_path, lists)
    write_media(tmp_path / "media", f"val/{VAL.format(2)}.JPEG", "n01440764/n01440764_10026.JPEG")
    collection = collect(tmp_path, "imagenet")
    assert collection.labels == {
        "n01440764/n01440764_10026.JPEG": ["n01440764"],
        f"val/{VAL.format(2)}.JPEG": ["n09193705"],
    }
    assert collection.counts == {"train": (1, 1, 1), "test": (1, 1, 0)}
    assert "ImageSets/CLS-LOC/train_cls.txt line 3" in collection.failed


def test_classes_of_the_validation_pictures_in_order(tmp_path: Path) -> None:
    name = "imagenet_2012_validation_synset_labels.txt"
    write_lists(tmp_path, {name: "n01751748\nn09193705\n"})
    write_media(tmp_path / "media", f"{VAL.format(1)}.JPEG", f"{VAL.format(2)}.jpg")
    assert collect(tmp_path, "imagenet").labels == {
        f"{VAL.format(1)}.JPEG": ["n01751748"],
        f"{VAL.format(2)}.jpg": ["n09193705"],
    }


def test_neither_list_nor_folders(tmp_path: Path) -> None:
    write_media(tmp_path / "media", "a.JPEG")
    with pytest.raises(StageError, match="there is no train/<wnid>/ or val/<wnid>/ in the media"):
        collect(tmp_path, "imagenet")
