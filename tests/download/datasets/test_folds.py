"""ESC-50, HMDB51 and UCF101: official folds, one of them to test on."""

from pathlib import Path

from tests.download.datasets.miniature import collect, write_media
from vatt.corpus.manifest import Annotation

UCF101 = {
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
VIDEOS = (
    "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4",
    "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.webm",
    "UCF-101/v_ApplyLipstick_g08_c01.avi",
    "UCF-101/Archery/v_Archery_g01_c01.avi",
    "UCF-101/README.txt",
    "UCF-101/.DS_Store",
)


def test_the_first_fold_of_ucf101(tmp_path: Path) -> None:
    collection = collect(tmp_path, "ucf101", UCF101, VIDEOS)
    assert collection.counts == {"train": (2, 1, 0), "test": (1, 1, 0)}
    assert collection.splits == {VIDEOS[0]: "train", VIDEOS[1]: "test", VIDEOS[3]: "train"}
    assert collection.labels == {
        VIDEOS[0]: ["ApplyEyeMakeup"],
        VIDEOS[1]: ["ApplyEyeMakeup"],
        VIDEOS[3]: ["ApplyLipstick"],
    }
    notes = (("mine", "ApplyEyeMakeup"), ("fold", "1:train"), ("fold", "2:test"))
    assert collection.ok[VIDEOS[0]].annotations == tuple(Annotation(*note) for note in notes)
    assert collection.folds == {
        VIDEOS[0]: ["1:train", "2:test"],
        VIDEOS[1]: ["1:test", "2:train"],
        VIDEOS[3]: ["1:train"],  # the third fold has no lists here
    }
    assert (tmp_path / "download/mine" / VIDEOS[0]).read_text() == VIDEOS[0]
    gone = ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02", "ApplyLipstick/v_ApplyLipstick_g01_c01")
    assert collection.failed == {
        f"{name}.avi": f"missing: no media file is called {name}" for name in gone
    }
    assert collection.ignored == {
        VIDEOS[2]: f"{VIDEOS[1]} is used instead",
        VIDEOS[4]: "is not in the official list",
        VIDEOS[5]: "is no media file",
        VIDEOS[6]: "is hidden: a name that starts with a dot",
    }
    # Another fold turns train and test; what belongs to none any more is removed from the copy.
    assert (tmp_path / "download/mine" / VIDEOS[3]).exists()
    fold_2 = collect(tmp_path, "ucf101", fold=2)
    assert fold_2.splits == {VIDEOS[0]: "test", VIDEOS[1]: "train"}
    assert fold_2.counts == {"train": (1, 0, 0), "test": (1, 0, 0)}
    assert not (tmp_path / "download/mine" / VIDEOS[3]).exists()


def test_bad_rows_of_ucf101_cost_only_themselves(tmp_path: Path) -> None:
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
    lists = {"trainlist01.txt": rows, "testlist01.txt": test}
    write_media(tmp_path, "x.avi", "passwd.avi")
    files = ["ApplyEyeMakeup/v_a.avi", "x.avi", "v_b.avi", 'v_"ü".avi']
    collection = collect(tmp_path, "ucf101", lists, files)
    assert collection.splits == {files[0]: "train", files[3]: "train", files[2]: "test"}
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
    reasons = [file.reason for file in collection.collection.ignored]
    assert [reason for reason in reasons if "names" in reason] == [twice, twice]


FOLDER = "testTrainMulti_7030_splits"
BRUSH = [f"April_09_brush_hair_u_nm_np1_ba_goo_{number}.avi" for number in range(5)]
MEDIA = [f"brush_hair/{name}" for name in BRUSH]
CARTWHEEL = "cartwheel/(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0.avi"
HMDB51 = {
    f"{FOLDER}/brush_hair_test_split1.txt": "".join(
        f"{name} {code} \n" for name, code in zip(BRUSH, (1, 2, 0, 1, 0), strict=True)
    ),
    f"{FOLDER}/cartwheel_test_split1.txt": f"{Path(CARTWHEEL).name} 2 \r\n",
    f"{FOLDER}/brush_hair_test_split2.txt": f"{BRUSH[2]} 1 \n",
    f"{FOLDER}/brush_hair_test_split3.txt": f"{BRUSH[2]} 3\n{BRUSH[1]}\n",
}


def test_codes_of_hmdb51_become_splits_and_unused_files_are_said_to_be(tmp_path: Path) -> None:
    collection = collect(tmp_path, "hmdb51", HMDB51, [*MEDIA[:3], MEDIA[4], CARTWHEEL], fold=1)
    assert collection.splits == {
        MEDIA[0]: "train",
        MEDIA[1]: "test",
        MEDIA[2]: "validation",  # of no use in fold 1, but in fold 2
        CARTWHEEL: "test",
    }
    assert collection.folds == {
        MEDIA[0]: ["1:train"],
        MEDIA[1]: ["1:test"],
        MEDIA[2]: ["2:train"],
        CARTWHEEL: ["1:test"],
    }
    assert collection.labels[CARTWHEEL] == ["cartwheel"]
    assert collection.counts == {"train": (1, 1, 0), "validation": (1, 0, 0), "test": (2, 0, 0)}
    assert collection.metrics["unused"] == 1
    assert list(collection.failed) == [MEDIA[3]]
    assert collection.ignored == {MEDIA[4]: "is not used: in no list of any fold"}
    assert collect(tmp_path, "hmdb51", fold=2).splits == {MEDIA[2]: "train"}
    place = f"{FOLDER}/brush_hair_test_split3.txt line"
    assert collect(tmp_path, "hmdb51", fold=3).failed == {
        f"{place} 1": f"{place} 1: code = '3': must be 0 (unused), 1 (train) or 2 (test)",
        f"{place} 2": f"{place} 2: code: is empty",
    }


HEADER = "filename,fold,target,category,esc10,src_file,take\r\n"
ESC50 = (
    "1-100032-A-0.wav,1,0,dog,True,100032,A\r\n"
    "1-100038-A-14.wav,1,14,chirping_birds,False,100038,A\r\n"
    "2-5-A-0.wav,2,0,dog,True,5,A\r\n5-6-A-14.wav,5,14,chirping_birds,False,6,A\r\n"
)


def test_folds_of_esc50(tmp_path: Path) -> None:
    names = ["1-100032-A-0.wav", "1-100038-A-14.wav", "2-5-A-0.wav", "1-1-A-1.wav"]
    first, second, third, extra = (f"audio/{name}" for name in names)
    lists = {"ESC-50-master/meta/esc50.csv": HEADER + ESC50}
    collection = collect(tmp_path, "esc50", lists, [first, second, third, extra])
    assert collection.splits == {first: "test", second: "test", third: "train"}
    assert collection.labels[second] == ["chirping_birds"]
    assert collection.counts == {"train": (1, 1, 0), "test": (2, 0, 0)}
    assert list(collection.failed) == ["5-6-A-14.wav"]
    assert collection.ignored == {extra: "is not in the official list"}
    assert collection.folds[first] == ["1:test", "2:train", "3:train", "4:train", "5:train"]
    fold_2 = collect(tmp_path, "esc50", fold=2)
    assert fold_2.folds == collection.folds
    assert fold_2.counts == {"train": (2, 1, 0), "test": (1, 0, 0)}


def test_two_items_of_a_file_in_different_splits(tmp_path: Path) -> None:
    rows = "a.mp3,1,0,dog,True,1,A\na.wav,2,0,dog,True,1,A\n"
    collection = collect(tmp_path, "esc50", {"esc50.csv": HEADER + rows}, ["a.wav"])
    assert collection.splits == {"a.wav": "test"}
    assert collection.failed == {
        "a.wav (a row of the list)": "its file a.wav is in test, because of a.mp3"
    }
    assert collection.counts == {"train": (0, 0, 1), "test": (1, 0, 0)}
