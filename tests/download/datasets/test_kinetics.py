"""Kinetics and Kinetics-Sounds: clips in several layouts, whole videos, splits by column."""

from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect, name_rows, write_lists, write_media
from tests.made_media import Clip, write_clip
from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation
from vatt.download.datasets.clips import KINETICS_SOUNDS

HEADER = "label,youtube_id,time_start,time_end,split"
TRAIN = (
    f"{HEADER},is_cc\ntestifying,---QUuC4vJs,84,94,train,0\n"
    '"air drumming",_dbcJuKJQNs,40,50,train,0\nabseiling,0347ZoDXyP0,95,105,train,0\n'
)
VALIDATE = (
    f"{HEADER}\r\nabseiling,-3B32lodo2M,59,69,validate\r\nwashing feet,--GkrdYZ9Tc,0,10,val\r\n"
)
TEST = "youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n"
LISTS = {"k/train.csv": TRAIN, "k/validate.csv": VALIDATE, "k/test.csv": TEST, "k/other.csv": "a\n"}


def test_layouts_and_splits(tmp_path: Path) -> None:
    write_lists(tmp_path, LISTS)
    clips = {
        "k400/train/testifying/---QUuC4vJs_000084_000094.mp4": "train",
        "replacement/_dbcJuKJQNs_000040_000050.mkv": "train",
        "val/-3B32lodo2M_000059_000069.mp4": "test",
    }
    damaged = "train/abseiling/_dbcJuKJQNs_000040_000050.mp4"
    test = "test/--6bJUbfpnQ_000017_000027.mp4"
    write_media(tmp_path / "media", *clips, damaged, test, "val/unknown_000001_000011.mp4")
    collection = collect(tmp_path, "kinetics")
    assert collection.splits == clips
    assert sorted(collection.labels.values()) == [["abseiling"], ["air drumming"], ["testifying"]]
    assert collection.counts == {"train": (2, 1, 0), "test": (1, 1, 0)}
    assert collection.metrics["unused"] == 1
    assert set(collection.failed) == {"0347ZoDXyP0_000095_000105", "--GkrdYZ9Tc_000000_000010"}
    assert collection.ignored == {
        damaged: "replacement/_dbcJuKJQNs_000040_000050.mkv is used instead",
        test: "is not used: of the official test list",
        "val/unknown_000001_000011.mp4": "is not in the official list",
    }


def test_whole_videos_get_times_and_clips_get_none(tmp_path: Path) -> None:
    rows = "run,long_,2,3,train\nhop,long_,4,5,train\nrun,whole,2,3,train\nrun,clip_,7,8,train\n"
    write_lists(tmp_path, {"train.csv": f"{HEADER}\n{rows}hop,long_,0,1,val\n"})
    sound = Clip(video=False, sample_rate_hz=8000, num_channels=1)
    for name, duration_s in {"long_": 1.0, "whole": 6.0, "clip_": 1.2}.items():
        clip = Clip(duration_s, video=False, sample_rate_hz=sound.sample_rate_hz)
        write_clip(tmp_path / "media" / f"{name}.wav", clip)
    collection = collect(tmp_path, "kinetics")
    found = {name: row.annotations for name, row in collection.ok.items()}
    assert found == {
        "clip_.wav": (Annotation("mine", "run"),),
        "long_.wav": (Annotation("mine", "run", 2.0, 3.0), Annotation("mine", "hop", 4.0, 5.0)),
        "whole.wav": (Annotation("mine", "run", 2.0, 3.0),),
    }
    # A video whose parts are in different splits stays in the first one.
    assert collection.failed == {
        "long__000000_000001": "its file long_.wav is in train, because of long__000002_000003"
    }
    assert collection.counts == {"train": (4, 0, 0), "test": (0, 0, 1)}


def test_bad_rows_are_named(tmp_path: Path) -> None:
    rows = (
        "run,../x,0,10,train\n"
        "run,abc,ten,20,train\n"
        "run,abc,20,10,train\n"
        "run,abc,0,10,training\n"
        ",abc,0,10,train\n"
        "run\n"
        'run,"abc,0,10,train\n'
        "run,swallowed,0,10,train\n"
    )
    write_lists(tmp_path, {"train.csv": f"{HEADER}\n{rows}"})
    write_media(tmp_path, "x.mp4", "x_000000_000010.mp4")
    problems = [
        "youtube_id = '../x': must be an id of letters, digits, _ and -",
        "time_start = 'ten': must be a number of seconds, 0 or more",
        "end = 10: must be after start = 20",
        "split = 'training': must be train, val, validate, validation, test, holdout",
        "label: is empty",
        "youtube_id: is empty",
        "goes on to line 9: a quotation mark is not closed",
    ]
    collection = collect(tmp_path, "kinetics")
    assert collection.counts == {"train": (0, 0, len(problems))}
    assert collection.failed == name_rows("train.csv", problems)


def test_no_list_has_the_columns(tmp_path: Path) -> None:
    write_lists(tmp_path, {"train.csv": "a,b\n1,2\n"})
    with pytest.raises(StageError, match="holds no CSV with the columns label,youtube_id"):
        collect(tmp_path, "kinetics")


def test_kinetics_sounds_are_32_classes_of_kinetics(tmp_path: Path) -> None:
    assert len(KINETICS_SOUNDS) == 32
    assert {"playing bass guitar", "tap dancing", "singing"} <= KINETICS_SOUNDS
    rows = "tap dancing,aaa,0,10,train\nabseiling,bbb,0,10,train\nsinging,ccc,0,10,val\n"
    write_lists(tmp_path, {"train.csv": f"{HEADER}\n{rows}"})
    names = [f"{name}_000000_000010.mp4" for name in ("aaa", "bbb", "ccc")]
    write_media(tmp_path / "media", *names)
    collection = collect(tmp_path, "kinetics_sounds")
    assert collection.labels == {names[0]: ["tap dancing"], names[2]: ["singing"]}
    assert collection.counts == {"train": (1, 0, 0), "test": (1, 0, 0)}
    assert collection.ignored == {names[1]: "is not in the official list"}
