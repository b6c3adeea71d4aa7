"""MSR-VTT: the 1k-A pairs, and the full splits."""

import json
from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect, write_lists, write_media
from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation

TEST_1K = (
    "key,vid_key,video_id,sentence\n"
    "ret0,msr9770,video9770,a person is connecting something to system\n"
    'ret1,msr9771,video9771,"a little girl does ""gymnastics"", alone"\n'
)


def data(*videos: tuple[str, str], texts: int = 2) -> str:
    return json.dumps(
        {
            "info": {},
            "videos": [
                {"category": 9, "video_id": name, "split": split, "id": 0, "url": "https://x/y"}
                for name, split in videos
            ],
            "sentences": [
                {"caption": f"text {number} of {name}", "video_id": name, "sen_id": number}
                for name, _ in videos
                for number in range(texts)
            ],
        }
    )


def test_1k_a_test_pairs_alone(tmp_path: Path) -> None:
    write_lists(tmp_path, {"MSRVTT_JSFUSION_test.csv": TEST_1K})
    write_media(tmp_path / "media", "all/video9770.mp4", "all/video9771.mp4", "all/video0.mp4")
    collection = collect(tmp_path, "msrvtt")
    assert {name: row.annotations for name, row in collection.ok.items()} == {
        "all/video9770.mp4": (
            Annotation("caption", text="a person is connecting something to system"),
        ),
        "all/video9771.mp4": (
            Annotation("caption", text='a little girl does "gymnastics", alone'),
        ),
    }
    assert collection.counts == {"test": (2, 0, 0)}


def test_1k_a_with_training_videos(tmp_path: Path) -> None:
    lists = {
        "msrvtt_test.csv": TEST_1K,
        "MSRVTT_train.9k.csv": "video_id\nvideo0\nvideo1\nvideo2\n",
        "MSRVTT_data.json": data(("video0", "train"), ("video1", "validate")),
    }
    write_lists(tmp_path, lists)
    write_media(tmp_path / "media", "video0.mp4", "video9770.mp4")
    collection = collect(tmp_path, "msrvtt", protocol="1k_a")
    assert collection.splits == {"video0.mp4": "train", "video9770.mp4": "test"}
    assert [row.text for row in collection.ok["video0.mp4"].annotations] == [
        "text 0 of video0",
        "text 1 of video0",
    ]
    assert collection.counts == {"train": (1, 1, 1), "test": (1, 1, 0)}
    assert collection.failed["MSRVTT_train.9k.csv line 4"] == (
        "MSRVTT_train.9k.csv line 4: video_id = 'video2': has no sentence in MSRVTT_data.json"
    )


def test_full_splits(tmp_path: Path) -> None:
    train = data(("video0", "train"), ("video6513", "validate"), ("../x", "train"), ("a", "val"))
    lists = {
        "train_val_videodatainfo.json": train,
        "test_videodatainfo.json": data(("video7010", "test"), ("video0", "test")),
    }
    write_lists(tmp_path, lists)
    write_media(tmp_path / "media", *(f"video{number}.mp4" for number in (0, 6513, 7010)))
    write_media(tmp_path, "x.mp4")
    collection = collect(tmp_path, "msrvtt", protocol="full")
    assert collection.splits == {
        "video0.mp4": "train",
        "video6513.mp4": "validation",
        "video7010.mp4": "test",
    }
    assert collection.counts == {"train": (1, 0, 2), "validation": (1, 0, 0), "test": (1, 0, 0)}
    assert list(collection.failed) == [
        "train_val_videodatainfo.json videos[2]",
        "train_val_videodatainfo.json videos[3]",
    ]
    assert [file.path for file in collection.collection.ignored] == ["video0"]


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"videos": [], "sentences": [{}]}', '{"videos": {}, "sentences": []}']
)
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    write_lists(tmp_path, {"test_videodatainfo.json": content})
    with pytest.raises(StageError, match=r"test_videodatainfo\.json: "):
        collect(tmp_path, "msrvtt", protocol="full")
