"""YouCook2: sentences of steps are queries, with their times in the whole video."""

import json
from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect, write_lists, write_media
from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation

NAME = "youcookii_annotations_trainval.json"


def video(subset: str, *steps: object) -> dict[str, object]:
    return {
        "duration": 241.62,
        "subset": subset,
        "recipe_type": "113",
        "video_url": "https://www.youtube.com/watch?v=xHr8X2Wpmno",
        "annotations": list(steps),
    }


def step(start_s: float, end_s: float, sentence: str) -> dict[str, object]:
    return {"segment": [start_s, end_s], "id": 0, "sentence": sentence}


def test_sentences_with_times(tmp_path: Path) -> None:
    database = {
        "xHr8X2Wpmno": video("training", step(47, 60, "pick the ends off the verdolagas")),
        "GLd3aX16zBg": video(
            "validation", step(90, 102, "spread margarine "), step(1, 2.5, "crème")
        ),
        "gone_gone__": video("validation", step(0, 1, "x")),
    }
    write_lists(tmp_path, {f"annotations/{NAME}": json.dumps({"database": database})})
    write_media(tmp_path / "media", "training/113/xHr8X2Wpmno.mp4", "GLd3aX16zBg.webm")
    collection = collect(tmp_path, "youcook2")
    assert collection.splits == {
        "training/113/xHr8X2Wpmno.mp4": "train",
        "GLd3aX16zBg.webm": "test",
    }
    assert collection.ok["GLd3aX16zBg.webm"].annotations == (
        Annotation("caption", None, 90.0, 102.0, "spread margarine"),
        Annotation("caption", None, 1.0, 2.5, "crème"),
    )
    # Queries of the evaluation, never narration.
    assert all(row.captions_path is None for row in collection.entries)
    assert collection.counts == {"train": (1, 0, 0), "test": (1, 1, 0)}


def test_bad_entries_are_named(tmp_path: Path) -> None:
    database = {
        "../x": video("training"),
        "aaa": video("testing"),
        "aab": {"subset": [], "annotations": []},
        "bbb": [],
        "b\ud800b": {"subset": [], "annotations": []},
        "ccc": video("training", step(2, 1, "x")),
        "ddd": video("training", step(0, 1, " ")),
        "eee": video("training", {"segment": ["a", 1], "sentence": "x"}),
        "fff": {"subset": "training"},
    }
    write_lists(tmp_path, {NAME: json.dumps({"database": database})})
    write_media(tmp_path, "x.mp4")
    collection = collect(tmp_path, "youcook2")
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
    assert collection.failed == {
        f"{NAME} database.{key}": f"{NAME} database.{key}: {problem}"
        for key, problem in problems.items()
    }
    assert collection.counts == {"train": (0, 0, len(problems))}


def test_a_video_that_is_given_twice(tmp_path: Path) -> None:
    content = '{"database": {"aaa": {}, "bbb": {}, "aaa": {}}}'
    write_lists(tmp_path, {NAME: content})
    with pytest.raises(StageError, match=rf"{NAME}: is not JSON: 'aaa' is given more than once"):
        collect(tmp_path, "youcook2")


@pytest.mark.parametrize("content", ["{", "[]", '{"database": []}', b"\xff"])
def test_other_files_are_refused(tmp_path: Path, content: str | bytes) -> None:
    write_lists(tmp_path, {NAME: content})
    with pytest.raises(StageError, match=rf"{NAME}: is not "):
        collect(tmp_path, "youcook2")
