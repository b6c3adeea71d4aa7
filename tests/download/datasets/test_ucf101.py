"""UCF101: three folds, classes as folders, rows of the official lists."""

from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect, write_lists, write_media
from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation

LISTS = {
    "ucfTrainTestlist/classInd.txt": "1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n",
    "ucfTrainTestlist/trainlist01.txt": (
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi 1\r\n"
        "ApplyLipstick/v_ApplyLipstick_g08_c01.avi 2\r\n"
    ),
    "ucfTrainTestlist/testlist01.txt": (
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n"
        "ApplyLipstick/v_ApplyLipstick_g01_c01.avi\r\n"
    ),
    "ucfTrainTestlist/trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n",
    "ucfTrainTestlist/testlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n",
}
MEDIA = (
    "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4",
    "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.webm",
    "UCF-101/v_ApplyLipstick_g08_c01.avi",
    "UCF-101/Archery/v_Archery_g01_c01.avi",
    "UCF-101/README.txt",
    "UCF-101/.DS_Store",
)


def test_the_first_fold(tmp_path: Path) -> None:
    write_lists(tmp_path, LISTS)
    write_media(tmp_path / "media", *MEDIA)
    collection = collect(tmp_path, "ucf101")
    assert collection.counts == {"train": (2, 1, 0), "test": (1, 1, 0)}
    assert collection.splits == {MEDIA[0]: "train", MEDIA[1]: "test", MEDIA[3]: "train"}
    assert collection.labels == {
        MEDIA[0]: ["ApplyEyeMakeup"],
        MEDIA[1]: ["ApplyEyeMakeup"],
        MEDIA[3]: ["ApplyLipstick"],
    }
    notes = (("mine", "ApplyEyeMakeup"), ("fold", "1:train"), ("fold", "2:test"))
    assert collection.ok[MEDIA[0]].annotations == tuple(Annotation(*note) for note in notes)
    assert collection.folds == {
        MEDIA[0]: ["1:train", "2:test"],
        MEDIA[1]: ["1:test", "2:train"],
        MEDIA[3]: ["1:train"],  # the third fold has no lists here
    }
    assert (tmp_path / "download/mine" / MEDIA[0]).read_text() == MEDIA[0]
    missing = "missing: no media file is called "
    assert collection.failed == {
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi": (
            f"{missing}ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02"
        ),
        "ApplyLipstick/v_ApplyLipstick_g01_c01.avi": (
            f"{missing}ApplyLipstick/v_ApplyLipstick_g01_c01"
        ),
    }
    assert collection.ignored == {
        MEDIA[2]: f"{MEDIA[1]} is used instead",
        MEDIA[4]: "is not in the official list",
        MEDIA[5]: "is no media file",
        MEDIA[6]: "is hidden: a name that starts with a dot",
    }


def test_another_fold_turns_train_and_test(tmp_path: Path) -> None:
    write_lists(tmp_path, LISTS)
    write_media(tmp_path / "media", *MEDIA)
    collection = collect(tmp_path, "ucf101", fold=2)
    assert collection.splits == {MEDIA[0]: "test", MEDIA[1]: "train"}
    assert collection.counts == {"train": (1, 0, 0), "test": (1, 0, 0)}
    # What belongs to no fold any more is removed from the copy.
    collect(tmp_path, "ucf101")
    assert (tmp_path / "download/mine" / MEDIA[3]).exists()
    collect(tmp_path, "ucf101", fold=2)
    assert not (tmp_path / "download/mine" / MEDIA[3]).exists()


def test_bad_rows_are_named_and_cost_only_themselves(tmp_path: Path) -> None:
    rows = (
        "ApplyEyeMakeup/v_a.avi 1\n"
        "\n"
        "nonsense\n"
        "../x.avi 1\n"
        "ApplyEyeMakeup/../../x.avi 1\n"
        "/etc/passwd.avi 1\n"
        "ApplyEyeMakeup/v_a.avi 1\n"
        'Ünïcode/v_"ü".avi 1\n'
    )
    test = "ApplyEyeMakeup/v_a.avi\nApplyEyeMakeup/v_b.avi\n"
    write_lists(tmp_path, {"trainlist01.txt": rows, "testlist01.txt": test})
    write_media(tmp_path / "media", "ApplyEyeMakeup/v_a.avi", "x.avi", "v_b.avi", 'v_"ü".avi')
    write_media(tmp_path, "x.avi", "passwd.avi")
    collection = collect(tmp_path, "ucf101")
    assert collection.splits == {
        "ApplyEyeMakeup/v_a.avi": "train",
        'v_"ü".avi': "train",
        "v_b.avi": "test",
    }
    assert collection.labels['v_"ü".avi'] == ["Ünïcode"]
    leaves = "its name leaves the folder of the media"
    bad = "must be of the form Class/v_Class_g01_c01.avi"
    assert collection.failed == {
        "trainlist01.txt line 3": f"trainlist01.txt line 3: path = 'nonsense': {bad}",
        "../x.avi": leaves,
        "ApplyEyeMakeup/../../x.avi": leaves,
        "/etc/passwd.avi": leaves,
    }
    names = {path.name for path in (tmp_path / "download").rglob("*") if path.is_file()}
    assert names == {"manifest.jsonl", "v_a.avi", "v_b.avi", 'v_"ü".avi'}
    twice = "the official list names ApplyEyeMakeup/v_a.avi more than once; the first time counts"
    assert [file.reason for file in collection.collection.ignored if "names" in file.reason] == [
        twice,
        twice,
    ]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "annotations = .* holds no trainlist01.txt"),
        ({"trainlist01.txt": ""}, r"holds no testlist01\.txt"),
        (
            {"trainlist01.txt": b"A/v.avi 1\nA/\xff.avi 1\n", "testlist01.txt": ""},
            r"trainlist01\.txt after line \d: is no text in UTF-8",
        ),
    ],
)
def test_lists_that_cannot_be_used_are_named(
    tmp_path: Path, files: dict[str, str | bytes], problem: str
) -> None:
    write_lists(tmp_path, files)
    with pytest.raises(StageError, match=problem):
        collect(tmp_path, "ucf101")
