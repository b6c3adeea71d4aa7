"""AudioSet: several sounds a clip, clips under the names that programs give them."""

from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect, name_rows, write_lists, write_media
from tests.made_media import Clip, write_clip
from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation

HEAD = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=22160, num_segs=22160, num_unique_labels=527, num_positive_labels=52882\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)
BALANCED = (
    f'{HEAD}--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
    '--aE2O5G5WE, 0.000, 10.000, "/m/03fwl,/m/04rlf,/m/09x0r"\n'
)
CLASSES = (
    'index,mid,display_name\n0,/m/09x0r,"Speech"\n72,/m/03fwl,"Goat"\n'
    '137,/m/04rlf,"Music"\n451,/t/dd00088,"Gush"\n'
)


def test_lists_that_are_there_with_all_labels(tmp_path: Path) -> None:
    lists = {
        "balanced_train_segments.csv": BALANCED,
        "eval_segments.csv": f'{HEAD}-0RWZT-miFs, 420.000, 430.000, "/m/04rlf"\n',
        "class_labels_indices.csv": CLASSES,
    }
    write_lists(tmp_path, lists)
    write_media(tmp_path / "media", "eval/Y-0RWZT-miFs.wav", "balanced/--PJHxphWEs_30.mp4")
    collection = collect(tmp_path, "audioset")
    assert collection.splits == {
        "balanced/--PJHxphWEs_30.mp4": "train",
        "eval/Y-0RWZT-miFs.wav": "test",
    }
    assert collection.labels == {
        "balanced/--PJHxphWEs_30.mp4": ["Speech", "Gush"],
        "eval/Y-0RWZT-miFs.wav": ["Music"],
    }
    assert collection.counts == {"train": (1, 1, 0), "test": (1, 0, 0)}
    assert collection.failed == {"--aE2O5G5WE_0": "missing: no media file is called Y--aE2O5G5WE"}


@pytest.mark.parametrize(
    "name",
    [
        "Y--PJHxphWEs.wav",
        "--PJHxphWEs_30.mp4",
        "--PJHxphWEs_30.000.wav",
        "--PJHxphWEs_30_40.flac",
        "--PJHxphWEs_30000_40000.m4a",
        "--PJHxphWEs_30.000_40.000.wav",
        "Y--PJHxphWEs_30.000_40.000.wav",
        "--PJHxphWEs_000030_000040.mp4",
        "--PJHxphWEs_30-40.wav",
        "a/b/--PJHxphWEs_30.WAV",
    ],
)
def test_layouts(tmp_path: Path, name: str) -> None:
    write_lists(
        tmp_path, {"balanced_train_segments.csv": BALANCED, "class_labels_indices.csv": CLASSES}
    )
    write_media(tmp_path / "media", name)
    assert collect(tmp_path, "audioset").labels == {name: ["Speech", "Gush"]}


def test_whole_videos_and_clips_named_by_their_id_alone(tmp_path: Path) -> None:
    write_lists(
        tmp_path, {"unbalanced_train_segments.csv": BALANCED, "class_labels_indices.csv": CLASSES}
    )
    whole = Clip(duration_s=42.0, video=False, sample_rate_hz=8000, num_channels=1)
    cut = Clip(duration_s=10.0, video=False, sample_rate_hz=8000, num_channels=1)
    write_clip(tmp_path / "media" / "A title [--PJHxphWEs].wav", whole)
    write_clip(tmp_path / "media" / "--aE2O5G5WE.wav", cut)
    found = collect(tmp_path, "audioset").ok
    assert found["A title [--PJHxphWEs].wav"].annotations == (
        Annotation("mine", "Speech", 30.0, 40.0),
        Annotation("mine", "Gush", 30.0, 40.0),
    )
    assert [row.start_s for row in found["--aE2O5G5WE.wav"].annotations] == [None] * 3


def test_bad_rows_are_named(tmp_path: Path) -> None:
    name = "eval_segments.csv"
    rows = f'{HEAD}a/b, 0, 10, "/m/04rlf"\nabc, 0, 10, "/m/04rlf,/m/none"\nabc, 0\nabc, 0, inf, x\n'
    write_lists(tmp_path, {name: rows, "class_labels_indices.csv": CLASSES})
    problems = [
        "id = 'a/b': must be an id of letters, digits, _ and -",
        "label = '/m/none': is not in class_labels_indices.csv",
        "end: is empty",
        "end = 'inf': must be a number of seconds, 0 or more",
    ]
    assert collect(tmp_path, "audioset").failed == name_rows(name, problems, first=4)


def test_missing_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"holds no balanced_train_segments\.csv or "):
        collect(tmp_path, "audioset")
    write_lists(tmp_path, {"eval_segments.csv": HEAD})
    with pytest.raises(StageError, match=r"holds no class_labels_indices\.csv"):
        collect(tmp_path, "audioset")
    write_lists(tmp_path, {"class_labels_indices.csv": "mid,name\n"})
    with pytest.raises(StageError, match=r"indices\.csv: has no column display_name; its header"):
        collect(tmp_path, "audioset")
