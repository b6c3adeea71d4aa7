"""HMDB51: a list for each class, with codes for train, test and unused."""

from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect, write_media
from tests.download.made_files import write_files
from vatt.core.errors import StageError

FOLDER = "testTrainMulti_7030_splits"
BRUSH = "April_09_brush_hair_u_nm_np1_ba_goo_{}.avi"
MEDIA = [f"brush_hair/{BRUSH.format(number)}" for number in range(5)]
CARTWHEEL = "cartwheel/(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0.avi"


def write_lists(tmp_path: Path) -> None:
    codes = "".join(
        f"{BRUSH.format(number)} {code} \n" for number, code in enumerate((1, 2, 0, 1, 0))
    )
    write_files(
        tmp_path / "lists",
        {
            f"{FOLDER}/brush_hair_test_split1.txt": codes,
            f"{FOLDER}/cartwheel_test_split1.txt": f"{Path(CARTWHEEL).name} 2 \r\n",
            f"{FOLDER}/brush_hair_test_split2.txt": f"{BRUSH.format(2)} 1 \n",
            f"{FOLDER}/brush_hair_test_split3.txt": f"{BRUSH.format(2)} 3\n{BRUSH.format(1)}\n",
        },
    )


def test_codes_become_splits_and_unused_files_are_said_to_be(tmp_path: Path) -> None:
    write_lists(tmp_path)
    write_media(tmp_path / "media", *MEDIA[:3], MEDIA[4], CARTWHEEL)
    collection = collect(tmp_path, "hmdb51", fold=1)
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


def test_wrong_codes_are_named(tmp_path: Path) -> None:
    write_lists(tmp_path)
    place = f"{FOLDER}/brush_hair_test_split3.txt line"
    assert collect(tmp_path, "hmdb51", fold=3).failed == {
        f"{place} 1": f"{place} 1: code = '3': must be 0 (unused), 1 (train) or 2 (test)",
        f"{place} 2": f"{place} 2: code: is empty",
    }


def test_no_list_of_the_fold(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"holds no <class>_test_split1\.txt"):
        collect(tmp_path, "hmdb51")
