"""Charades, ImageNet and Moments in Time: actions with times, classes as folders, flat pictures."""

from pathlib import Path

from tests.download.datasets.miniature import collect
from vatt.corpus.manifest import Annotation

CHARADES = (
    "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
)
ROW = (
    '{},HR43,Kitchen,6,7,Yes,"A person cooks, then says ""hello"".",food;stove,'
    "A person cooks food.,{},24.83\n"
)
VAL = "ILSVRC2012_val_0000000{}"


def test_actions_of_charades_become_labels_with_times(tmp_path: Path) -> None:
    train = ROW.format("46GP8", "c092 11.90 21.20;c147 0.00 12.60") + ROW.format("N11GT", "")
    test = ROW.format("YSKX3", "c001 0 5").replace("\n", "\r\n")
    lists = {
        "Charades/Charades_v1_train.csv": CHARADES + train,
        "Charades_v1_test.csv": CHARADES + test,
    }
    names = [f"Charades_v1_480/{name}.mp4" for name in ("46GP8", "N11GT", "YSKX3")]
    collection = collect(tmp_path, "charades", lists, names)
    assert {name: row.annotations for name, row in collection.ok.items()} == {
        names[0]: (Annotation("mine", "c092", 11.9, 21.2), Annotation("mine", "c147", 0.0, 12.6)),
        names[1]: (),
        names[2]: (Annotation("mine", "c001", 0.0, 5.0),),
    }
    assert collection.counts == {"train": (2, 0, 0), "test": (1, 0, 0)}


def test_folders_of_classes_are_the_list_of_imagenet(tmp_path: Path) -> None:
    names = {
        "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG": "train",
        "ILSVRC/Data/CLS-LOC/val/n01751748/ILSVRC2012_val_00000001.JPEG": "test",
    }
    others = ["test/n01440764/x.JPEG", "train/loose.JPEG", "a.mp4"]
    collection = collect(tmp_path, "imagenet", files=[*names, *others])
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
    files = [f"val/{VAL.format(2)}.JPEG", "n01440764/n01440764_10026.JPEG"]
    collection = collect(tmp_path, "imagenet", lists, files)
    assert collection.labels == {files[1]: ["n01440764"], files[0]: ["n09193705"]}
    assert collection.counts == {"train": (1, 1, 1), "test": (1, 1, 0)}
    assert "ImageSets/CLS-LOC/train_cls.txt line 3" in collection.failed


def test_classes_of_the_validation_pictures_in_order(tmp_path: Path) -> None:
    lists = {"imagenet_2012_validation_synset_labels.txt": "n01751748\nn09193705\n"}
    files = [f"{VAL.format(1)}.JPEG", f"{VAL.format(2)}.jpg"]
    assert collect(tmp_path, "imagenet", lists, files).labels == {
        files[0]: ["n01751748"],
        files[1]: ["n09193705"],
    }


def test_lists_and_layouts_of_moments_in_time(tmp_path: Path) -> None:
    lists = {
        "moments_categories.txt": "clapping,0\nadult+female+singing,1\n",
        "trainingSet.csv": (
            "clapping/yt-a_1.mp4,clapping,3,0\r\n"
            "adult+female+singing/b.mp4,adult+female+singing,4,1\r\n"
            "clapping/gone.mp4,clapping,3,0\r\nbare.mp4,clapping\r\n"
        ),
        "validationSet.csv": "clapping/b.mp4,clapping,3,0\nclapping/yt-a_1.mp4,clapping,3,0\n",
    }
    names = {
        "training/clapping/yt-a_1.mp4": "train",
        "training/adult+female+singing/b.mp4": "train",
        "validation/clapping/b.mp4": "test",
        "validation/clapping/yt-a_1.mp4": "test",
    }
    collection = collect(tmp_path, "moments_in_time", lists, names)
    assert collection.splits == names
    assert collection.labels["training/adult+female+singing/b.mp4"] == ["adult+female+singing"]
    assert collection.counts == {"train": (2, 1, 1), "test": (2, 0, 0)}
    place = "trainingSet.csv line 4"
    assert collection.failed == {
        "training/clapping/gone.mp4": "missing: no media file is called training/clapping/gone",
        place: f"{place}: path = 'bare.mp4': must be of the form class/file.mp4",
    }
