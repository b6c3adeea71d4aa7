"""MSR-VTT and YouCook2: the 1k-A pairs and the full splits; sentences of steps with their times."""

import json
from pathlib import Path

from tests.download.datasets.miniature import collect, write_media
from vatt.corpus.manifest import Annotation

TEST_1K = (
    "key,vid_key,video_id,sentence\n"
    "ret0,msr9770,video9770,a person is connecting something to system\n"
    'ret1,msr9771,video9771,"a little girl does ""gymnastics"", alone"\n'
)


def msrvtt_of(*videos: tuple[str, str]) -> str:
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
                for number in range(2)
            ],
        }
    )


def test_1k_a_test_pairs_alone(tmp_path: Path) -> None:
    files = [f"all/video{number}.mp4" for number in (9770, 9771, 0)]
    collection = collect(tmp_path, "msrvtt", {"MSRVTT_JSFUSION_test.csv": TEST_1K}, files)
    assert {name: row.annotations for name, row in collection.ok.items()} == {
        files[0]: (Annotation("caption", text="a person is connecting something to system"),),
        files[1]: (Annotation("caption", text='a little girl does "gymnastics", alone'),),
    }
    assert collection.counts == {"test": (2, 0, 0)}


def test_1k_a_with_training_videos(tmp_path: Path) -> None:
    lists = {
        "msrvtt_test.csv": TEST_1K,
        "MSRVTT_train.9k.csv": "video_id\nvideo0\nvideo1\nvideo2\n",
        "MSRVTT_data.json": msrvtt_of(("video0", "train"), ("video1", "validate")),
    }
    files = ["video0.mp4", "video9770.mp4"]
    collection = collect(tmp_path, "msrvtt", lists, files, protocol="1k_a")
    assert collection.splits == {"video0.mp4": "train", "video9770.mp4": "test"}
    texts = [row.text for row in collection.ok["video0.mp4"].annotations]
    assert texts == ["text 0 of video0", "text 1 of video0"]
    assert collection.counts == {"train": (1, 1, 1), "test": (1, 1, 0)}
    assert collection.failed["MSRVTT_train.9k.csv line 4"] == (
        "MSRVTT_train.9k.csv line 4: video_id = 'video2': has no sentence in MSRVTT_data.json"
    )


def test_full_splits(tmp_path: Path) -> None:
    splits = {"video0": "train", "video6513": "validate", "../x": "train", "a": "val"}
    name = "train_val_videodatainfo.json"
    lists = {
        name: msrvtt_of(*splits.items()),
        "test_videodatainfo.json": msrvtt_of(("video7010", "test"), ("video0", "test")),
    }
    write_media(tmp_path, "x.mp4")
    files = [f"video{number}.mp4" for number in (0, 6513, 7010)]
    collection = collect(tmp_path, "msrvtt", lists, files, protocol="full")
    assert collection.splits == {files[0]: "train", files[1]: "validation", files[2]: "test"}
    assert collection.counts == {"train": (1, 0, 2), "validation": (1, 0, 0), "test": (1, 0, 0)}
    assert list(collection.failed) == [f"{name} videos[2]", f"{name} videos[3]"]
    assert list(collection.ignored) == ["video0"]


YOUCOOK2 = "youcookii_annotations_trainval.json"


def recipe(subset: str, *steps: object) -> dict[str, object]:
    return {
        "duration": 241.62,
        "subset": subset,
        "recipe_type": "113",
        "video_url": "https://www.youtube.com/watch?v=xHr8X2Wpmno",
        "annotations": list(steps),
    }


def step(start_s: float, end_s: float, sentence: str) -> dict[str, object]:
    return {"segment": [start_s, end_s], "id": 0, "sentence": sentence}


def test_steps_of_recipes_with_times(tmp_path: Path) -> None:
    steps = step(90, 102, "spread margarine "), step(1, 2.5, "crème")
    database = {
        "xHr8X2Wpmno": recipe("training", step(47, 60, "pick the ends off the verdolagas")),
        "GLd3aX16zBg": recipe("validation", *steps),
        "gone_gone__": recipe("validation", step(0, 1, "x")),
    }
    lists = {f"annotations/{YOUCOOK2}": json.dumps({"database": database})}
    files = {"training/113/xHr8X2Wpmno.mp4": "train", "GLd3aX16zBg.webm": "test"}
    collection = collect(tmp_path, "youcook2", lists, files)
    assert collection.splits == files
    assert collection.ok["GLd3aX16zBg.webm"].annotations == (
        Annotation("caption", None, 90.0, 102.0, "spread margarine"),
        Annotation("caption", None, 1.0, 2.5, "crème"),
    )
    # Queries of the evaluation, never narration.
    assert all(row.captions_path is None for row in collection.entries)
    assert collection.counts == {"train": (1, 0, 0), "test": (1, 1, 0)}


def test_bad_recipes_are_named(tmp_path: Path) -> None:
    database = {
        "../x": recipe("training"),
        "aaa": recipe("testing"),
        "aab": {"subset": [], "annotations": []},
        "bbb": [],
        "b\ud800b": {"subset": [], "annotations": []},
        "ccc": recipe("training", step(2, 1, "x")),
        "ddd": recipe("training", step(0, 1, " ")),
        "eee": recipe("training", {"segment": ["a", 1], "sentence": "x"}),
        "fff": {"subset": "training"},
    }
    write_media(tmp_path, "x.mp4")
    collection = collect(tmp_path, "youcook2", {YOUCOOK2: json.dumps({"database": database})})
    problems = {
        "../x": "id = '../x': must be an id of letters, digits, _ and -",
        "aaa": "subset = 'testing': must be training or validation",
        "aab": "subset = []: must be training or validation",
        "bbb": "subset = None: must be training or validation",
        "b?b": "id = 'b?b': must be an id of letters, digits, _ and -",
        "ccc": "annotations[0]: end = 1: must be after start = 2",
        "ddd": (
            "annotations[0]: needs segment [start, end] and sentence; "
            "it is {'segment': [0, 1], 'id': 0, 'sentence': ' '}"
        ),
        "eee": "annotations[0] = 'a': must be a number of seconds, 0 or more",
        "fff": "annotations: is no list",
    }
    places = {key: f"{YOUCOOK2} database.{key}" for key in problems}
    assert collection.failed == {places[key]: f"{places[key]}: {problems[key]}" for key in problems}
    assert collection.counts == {"train": (0, 0, len(problems))}
