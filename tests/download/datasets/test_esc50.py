"""ESC-50: five folds, one of them to test on."""

from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect, write_lists, write_media
from vatt.core.errors import StageError

HEADER = "filename,fold,target,category,esc10,src_file,take\r\n"
ROWS = (
    "1-100032-A-0.wav,1,0,dog,True,100032,A\r\n"
    "1-100038-A-14.wav,1,14,chirping_birds,False,100038,A\r\n"
)
MADE = "2-5-A-0.wav,2,0,dog,True,5,A\r\n5-6-A-14.wav,5,14,chirping_birds,False,6,A\r\n"


def test_folds(tmp_path: Path) -> None:
    write_lists(tmp_path, {"ESC-50-master/meta/esc50.csv": HEADER + ROWS + MADE})
    names = ["1-100032-A-0.wav", "1-100038-A-14.wav", "2-5-A-0.wav"]
    write_media(tmp_path / "media", *(f"audio/{name}" for name in names), "audio/1-1-A-1.wav")
    collection = collect(tmp_path, "esc50")
    assert collection.splits == {
        "audio/1-100032-A-0.wav": "test",
        "audio/1-100038-A-14.wav": "test",
        "audio/2-5-A-0.wav": "train",
    }
    assert collection.labels["audio/1-100038-A-14.wav"] == ["chirping_birds"]
    assert collection.counts == {"train": (1, 1, 0), "test": (2, 0, 0)}
    assert list(collection.failed) == ["5-6-A-14.wav"]
    assert collection.ignored == {"audio/1-1-A-1.wav": "is not in the official list"}
    of_first = ["1:test", "2:train", "3:train", "4:train", "5:train"]
    assert collection.folds["audio/1-100032-A-0.wav"] == of_first
    fold_2 = collect(tmp_path, "esc50", fold=2)
    assert fold_2.folds == collection.folds
    assert fold_2.counts == {"train": (2, 1, 0), "test": (1, 0, 0)}


def test_bad_rows_are_named(tmp_path: Path) -> None:
    rows = (
        "a.wav,6,0,dog,True,1,A\nb.wav,1,0,,True,1,A\n,1,0,dog,True,1,A\n../a.wav,1,0,dog,T,1,A\n"
    )
    write_lists(tmp_path, {"esc50.csv": HEADER + rows})
    write_media(tmp_path, "a.wav")
    assert collect(tmp_path, "esc50").failed == {
        "esc50.csv line 2": "esc50.csv line 2: fold = '6': must be 1 to 5",
        "esc50.csv line 3": "esc50.csv line 3: category: is empty",
        "esc50.csv line 4": "esc50.csv line 4: filename: is empty",
        "../a.wav": "its name leaves the folder of the media",
    }


def test_two_items_of_a_file_in_different_splits(tmp_path: Path) -> None:
    rows = "a.mp3,1,0,dog,True,1,A\na.wav,2,0,dog,True,1,A\n"
    write_lists(tmp_path, {"esc50.csv": HEADER + rows})
    write_media(tmp_path / "media", "a.wav")
    collection = collect(tmp_path, "esc50")
    assert collection.splits == {"a.wav": "test"}
    assert collection.failed == {
        "a.wav (a row of the list)": "its file a.wav is in test, because of a.mp3"
    }
    assert collection.counts == {"train": (0, 0, 1), "test": (1, 0, 0)}


def test_missing_columns_are_named(tmp_path: Path) -> None:
    write_lists(tmp_path, {"esc50.csv": "filename,target\n"})
    with pytest.raises(StageError, match=r"esc50\.csv: has no column fold, category; its header"):
        collect(tmp_path, "esc50")
