"""Moments in Time: two lists without header, classes as folders."""

from pathlib import Path

from tests.download.datasets.miniature import collect, write_lists, write_media


def test_lists_and_layouts(tmp_path: Path) -> None:
    train = (
        "clapping/yt-a_1.mp4,clapping,3,0\r\n"
        "adult+female+singing/b.mp4,adult+female+singing,4,1\r\n"
    )
    lists = {
        "moments_categories.txt": "clapping,0\nadult+female+singing,1\n",
        "trainingSet.csv": f"{train}clapping/gone.mp4,clapping,3,0\r\nbare.mp4,clapping\r\n",
        "validationSet.csv": "clapping/b.mp4,clapping,3,0\nclapping/yt-a_1.mp4,clapping,3,0\n",
    }
    write_lists(tmp_path, lists)
    names = {
        "training/clapping/yt-a_1.mp4": "train",
        "training/adult+female+singing/b.mp4": "train",
        "validation/clapping/b.mp4": "test",
        "validation/clapping/yt-a_1.mp4": "test",
    }
    write_media(tmp_path / "media", *names)
    collection = collect(tmp_path, "moments_in_time")
    assert collection.splits == names
    assert collection.labels["training/adult+female+singing/b.mp4"] == ["adult+female+singing"]
    assert collection.counts == {"train": (2, 1, 1), "test": (2, 0, 0)}
    assert collection.failed == {
        "training/clapping/gone.mp4": ("missing: no media file is called training/clapping/gone"),
        "trainingSet.csv line 4": (
            "trainingSet.csv line 4: path = 'bare.mp4': must be of the form class/file.mp4"
        ),
    }
