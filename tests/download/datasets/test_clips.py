"""AudioSet, Kinetics and Kinetics-Sounds: clips in several layouts, and whole videos."""

from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect
from tests.made_media import Clip, write_clip
from vatt.corpus.manifest import Annotation
from vatt.download.datasets.clips import KINETICS_SOUNDS

HEAD = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=22160, num_segs=22160, num_unique_labels=527, num_positive_labels=52882\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)
AUDIOSET = {
    "balanced_train_segments.csv": (
        f'{HEAD}--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
        '--aE2O5G5WE, 0.000, 10.000, "/m/03fwl,/m/04rlf,/m/09x0r"\n'
    ),
    "class_labels_indices.csv": (
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n72,/m/03fwl,"Goat"\n'
        '137,/m/04rlf,"Music"\n451,/t/dd00088,"Gush"\n'
    ),
}
EVAL = f'{HEAD}-0RWZT-miFs, 420.000, 430.000, "/m/04rlf"\n'

HEADER = "label,youtube_id,time_start,time_end,split"
KINETICS = {
    "k/train.csv": (
        f"{HEADER},is_cc\ntestifying,---QUuC4vJs,84,94,train,0\n"
        '"air drumming",_dbcJuKJQNs,40,50,train,0\nabseiling,0347ZoDXyP0,95,105,train,0\n'
    ),
    "k/validate.csv": (
        f"{HEADER}\r\nabseiling,-3B32lodo2M,59,69,validate\r\nwashing feet,--GkrdYZ9Tc,0,10,val\r\n"
    ),
    "k/test.csv": "youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n",
    "k/other.csv": "a\n",
}


def test_lists_that_are_there_with_all_labels(tmp_path: Path) -> None:
    files = ("eval/Y-0RWZT-miFs.wav", "balanced/--PJHxphWEs_30.mp4")
    collection = collect(tmp_path, "audioset", {**AUDIOSET, "eval_segments.csv": EVAL}, files)
    assert collection.splits == {files[0]: "test", files[1]: "train"}
    assert collection.labels == {files[0]: ["Music"], files[1]: ["Speech", "Gush"]}
    assert collection.counts == {"train": (1, 1, 0), "test": (1, 0, 0)}
    assert collection.failed == {"--aE2O5G5WE_0": "missing: no media file is called Y--aE2O5G5WE"}


@pytest.mark.parametrize(
    "name",
    [
        *("Y--PJHxphWEs.wav", "--PJHxphWEs_30.mp4", "--PJHxphWEs_30.000.wav"),
        *("--PJHxphWEs_30_40.flac", "--PJHxphWEs_30000_40000.m4a"),
        *("--PJHxphWEs_30.000_40.000.wav", "Y--PJHxphWEs_30.000_40.000.wav"),
        *("--PJHxphWEs_000030_000040.mp4", "--PJHxphWEs_30-40.wav", "a/b/--PJHxphWEs_30.WAV"),
    ],
)
def test_layouts_of_audioset(tmp_path: Path, name: str) -> None:
    assert collect(tmp_path, "audioset", AUDIOSET, [name]).labels == {name: ["Speech", "Gush"]}


def write_sound(path: Path, duration_s: float) -> None:
    write_clip(path, Clip(duration_s, video=False, sample_rate_hz=8000, num_channels=1))


def test_whole_videos_and_clips_named_by_their_id_alone(tmp_path: Path) -> None:
    write_sound(tmp_path / "media" / "A title [--PJHxphWEs].wav", 42.0)
    write_sound(tmp_path / "media" / "--aE2O5G5WE.wav", 10.0)
    found = collect(tmp_path, "audioset", AUDIOSET).ok
    assert found["A title [--PJHxphWEs].wav"].annotations == (
        Annotation("mine", "Speech", 30.0, 40.0),
        Annotation("mine", "Gush", 30.0, 40.0),
    )
    assert [row.start_s for row in found["--aE2O5G5WE.wav"].annotations] == [None] * 3


def test_layouts_and_splits(tmp_path: Path) -> None:
    clips = {
        "k400/train/testifying/---QUuC4vJs_000084_000094.mp4": "train",
        "replacement/_dbcJuKJQNs_000040_000050.mkv": "train",
        "val/-3B32lodo2M_000059_000069.mp4": "test",
    }
    damaged = "train/abseiling/_dbcJuKJQNs_000040_000050.mp4"
    test, unknown = "test/--6bJUbfpnQ_000017_000027.mp4", "val/unknown_000001_000011.mp4"
    collection = collect(tmp_path, "kinetics", KINETICS, [*clips, damaged, test, unknown])
    assert collection.splits == clips
    assert sorted(collection.labels.values()) == [["abseiling"], ["air drumming"], ["testifying"]]
    assert collection.counts == {"train": (2, 1, 0), "test": (1, 1, 0)}
    assert collection.metrics["unused"] == 1
    assert set(collection.failed) == {"0347ZoDXyP0_000095_000105", "--GkrdYZ9Tc_000000_000010"}
    assert collection.ignored == {
        damaged: "replacement/_dbcJuKJQNs_000040_000050.mkv is used instead",
        test: "is not used: of the official test list",
        unknown: "is not in the official list",
    }


def test_whole_videos_get_times_and_clips_get_none(tmp_path: Path) -> None:
    rows = "run,long_,2,3,train\nhop,long_,4,5,train\nrun,whole,2,3,train\nrun,clip_,7,8,train\n"
    for name, duration_s in {"long_": 1.0, "whole": 6.0, "clip_": 1.2}.items():
        write_sound(tmp_path / "media" / f"{name}.wav", duration_s)
    collection = collect(
        tmp_path, "kinetics", {"train.csv": f"{HEADER}\n{rows}hop,long_,0,1,val\n"}
    )
    assert {name: row.annotations for name, row in collection.ok.items()} == {
        "clip_.wav": (Annotation("mine", "run"),),
        "long_.wav": (Annotation("mine", "run", 2.0, 3.0), Annotation("mine", "hop", 4.0, 5.0)),
        "whole.wav": (Annotation("mine", "run", 2.0, 3.0),),
    }
    # A video whose parts are in different splits stays in the first one.
    assert collection.failed == {
        "long__000000_000001": "its file long_.wav is in train, because of long__000002_000003"
    }
    assert collection.counts == {"train": (4, 0, 0), "test": (0, 0, 1)}


def test_kinetics_sounds_are_32_classes_of_kinetics(tmp_path: Path) -> None:
    assert len(KINETICS_SOUNDS) == 32
    assert {"playing bass guitar", "tap dancing", "singing"} <= KINETICS_SOUNDS
    rows = "tap dancing,aaa,0,10,train\nabseiling,bbb,0,10,train\nsinging,ccc,0,10,val\n"
    names = [f"{name}_000000_000010.mp4" for name in ("aaa", "bbb", "ccc")]
    collection = collect(tmp_path, "kinetics_sounds", {"train.csv": f"{HEADER}\n{rows}"}, names)
    assert collection.labels == {names[0]: ["tap dancing"], names[2]: ["singing"]}
    assert collection.counts == {"train": (1, 0, 0), "test": (1, 0, 0)}
    assert collection.ignored == {names[1]: "is not in the official list"}
