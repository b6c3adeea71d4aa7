"""Wrong lists and rows are refused by name; every other item and file is still accounted for."""

import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect, name_rows, write_media
from tests.download.datasets.test_classes import CHARADES, ROW
from tests.download.datasets.test_clips import AUDIOSET, HEAD, HEADER
from tests.download.datasets.test_folds import HEADER as ESC50
from tests.download.datasets.test_sentences import YOUCOOK2 as RECIPES
from vatt.core.errors import StageError

ACTIONS = [("AAAAA", "c092 1"), ("BBBBB", "c092 2 1"), ("CCCCC", "c092 -1 1"), ("../x", "")]
BAD_ROWS: dict[str, tuple[dict[str, str], list[str]]] = {
    "charades": (
        {
            "Charades_v1_train.csv": CHARADES + "".join(ROW.format(*row) for row in ACTIONS),
            "Charades_v1_test.csv": CHARADES,
        },
        [
            "actions = 'c092 1': must be of the form c092 11.90 21.20",
            "end = 1: must be after start = 2",
            "actions = '-1': must be a number of seconds, 0 or more",
            "id = '../x': must be an id of letters, digits, _ and -",
        ],
    ),
    "kinetics": (
        {
            "train.csv": f"{HEADER}\n"
            "run,../x,0,10,train\n"
            "run,abc,ten,20,train\n"
            "run,abc,20,10,train\n"
            "run,abc,0,10,training\n"
            ",abc,0,10,train\n"
            "run\n"
            'run,"abc,0,10,train\n'
            "run,swallowed,0,10,train\n"
        },
        [
            "youtube_id = '../x': must be an id of letters, digits, _ and -",
            "time_start = 'ten': must be a number of seconds, 0 or more",
            "end = 10: must be after start = 20",
            "split = 'training': must be train, val, validate, validation, test, holdout",
            "label: is empty",
            "youtube_id: is empty",
            "goes on to line 9: a quotation mark is not closed",
        ],
    ),
    "audioset": (
        {
            "eval_segments.csv": f'{HEAD}a/b, 0, 10, "/m/04rlf"\n'
            'abc, 0, 10, "/m/04rlf,/m/none"\nabc, 0\nabc, 0, inf, x\n',
            "class_labels_indices.csv": AUDIOSET["class_labels_indices.csv"],
        },
        [
            "id = 'a/b': must be an id of letters, digits, _ and -",
            "label = '/m/none': is not in class_labels_indices.csv",
            "end: is empty",
            "end = 'inf': must be a number of seconds, 0 or more",
        ],
    ),
    "esc50": (
        {
            "esc50.csv": f"{ESC50}a.wav,6,0,dog,True,1,A\nb.wav,1,0,,True,1,A\n"
            ",1,0,dog,True,1,A\n../a.wav,1,0,dog,T,1,A\n"
        },
        ["fold = '6': must be 1 to 5", "category: is empty", "filename: is empty"],
    ),
}
"""The lists, of which the first has bad rows, and what is said of these rows."""


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_are_named(tmp_path: Path, kind: str) -> None:
    lists, problems = BAD_ROWS[kind]
    write_media(tmp_path, "x.mp4", "x_000000_000010.mp4", "a.wav")
    collection = collect(tmp_path, kind, lists)
    failed = dict(collection.failed)
    if kind == "esc50":
        assert failed.pop("../a.wav") == "its name leaves the folder of the media"
    first = 4 if kind == "audioset" else 2
    assert failed == name_rows(next(iter(lists)), problems, first)
    assert collection.metrics["unusable"] == collection.metrics["listed"] == len(collection.entries)


REFUSED: list[tuple[str, Mapping[str, str | bytes], str]] = [
    ("ucf101", {}, r"annotations = .* holds no trainlist01\.txt"),
    ("ucf101", {"trainlist01.txt": ""}, r"holds no testlist01\.txt"),
    (
        "ucf101",
        {"trainlist01.txt": b"A/v.avi 1\nA/\xff.avi 1\n", "testlist01.txt": ""},
        r"trainlist01\.txt after line \d: is no text in UTF-8",
    ),
    ("hmdb51", {}, r"holds no <class>_test_split1\.txt"),
    ("esc50", {"esc50.csv": "filename,target\n"}, r"esc50\.csv: has no column fold, category; its"),
    ("kinetics", {"a.csv": "a,b\n1,2\n"}, "holds no CSV with the columns label,youtube_id"),
    ("audioset", {}, r"holds no balanced_train_segments\.csv or "),
    ("audioset", {"eval_segments.csv": HEAD}, r"holds no class_labels_indices\.csv"),
    (
        "audioset",
        {"eval_segments.csv": HEAD, "class_labels_indices.csv": "mid,name\n"},
        r"indices\.csv: has no column display_name; its header",
    ),
    ("imagenet", {}, "there is no train/<wnid>/ or val/<wnid>/ in the media"),
    *(
        ("msrvtt", {"test_videodatainfo.json": content}, r"test_videodatainfo\.json: ")
        for content in (
            "[]",
            "{",
            '{"videos": [], "sentences": [{}]}',
            '{"videos": {}, "sentences": []}',
        )
    ),
    *(
        ("youcook2", {RECIPES: content}, rf"{RECIPES}: is not ")
        for content in ("{", "[]", '{"database": []}', b"\xff")
    ),
    (
        "youcook2",
        {RECIPES: '{"database": {"aaa": {}, "bbb": {}, "aaa": {}}}'},
        rf"{RECIPES}: is not JSON: 'aaa' is given more than once",
    ),
]


@pytest.mark.parametrize(("kind", "lists", "message"), REFUSED)
def test_lists_that_cannot_be_used_are_named(
    tmp_path: Path, kind: str, lists: Mapping[str, str | bytes], message: str
) -> None:
    changes = {"protocol": "full"} if kind == "msrvtt" else {}
    with pytest.raises(StageError, match=message):
        collect(tmp_path, kind, lists, ["a.JPEG"], **changes)


KINETICS = "label,youtube_id,time_start,time_end,split\n" + "".join(
    f'"tap dancing, é",id_{number},{number},{number + 10},{split}\n'
    for number, split in enumerate(["train", "val", "test", "train"])
)
YOUCOOK2 = {
    f"id_{number}": {
        "subset": "validation" if number else "training",
        "annotations": [{"segment": [0, 1.5], "id": 0, "sentence": "stir \u00e9 \ud83d\ude00"}],
    }
    for number in range(4)
}
MSRVTT = {
    "videos": [{"video_id": f"id_{number}", "split": "test"} for number in range(4)],
    "sentences": [{"video_id": f"id_{number}", "caption": f"text {number}"} for number in range(4)],
}
LISTS: dict[str, dict[str, str]] = {
    "howto100m": {
        "HowTo100M_v1.csv": "video_id,rank\nid_0,1\nid_1,2\nid_2,3\n",
        "caption.json": json.dumps({"id_0": {"start": [1], "end": [2], "text": ["hello"]}}),
    },
    "audioset": {
        "class_labels_indices.csv": 'index,mid,display_name\n0,/m/a,"Speech"\n1,/m/b,"Gush, é"\n',
        "balanced_train_segments.csv": '# c\nid_0, 0.000, 9.000, "/m/a,/m/b"\nid_1, 1, 2, "/m/a"\n',
        "eval_segments.csv": '# c\nid_2, 0.000, 10.000, "/m/a,/m/b"\nid_3, 1, 2, "/m/a"\n',
    },
    "ucf101": {
        "trainlist01.txt": "A/id_0.avi 1\nA/id_1.avi 1\n",
        "testlist01.txt": "A/id_2.avi\r\nA/id_3.avi\r\n",
    },
    "hmdb51": {"A_test_split1.txt": "id_0.avi 0 \nid_1.avi 1 \nid_2.avi 2 \nid_3.avi 1 \n"},
    "kinetics": {"train.csv": KINETICS},
    "kinetics_sounds": {"train.csv": KINETICS.replace(", é", "")},
    "moments_in_time": {
        "trainingSet.csv": "A/id_0.mp4,A,1\nA/id_1.mp4,A,1\n",
        "validationSet.csv": "A/id_2.mp4,A,1\nA/id_3.mp4,A,1\n",
    },
    "esc50": {
        "esc50.csv": "filename,fold,category\nid_0.wav,1,dog\nid_1.wav,2,dog\nid_2.mp4,3,é\n"
    },
    "youcook2": {"youcookii_annotations_trainval.json": json.dumps({"database": YOUCOOK2})},
    "msrvtt": {
        "MSRVTT_JSFUSION_test.csv": 'key,video_id,sentence\nk,id_0,"a, ""b"""\nk,id_1,x\n',
        "MSRVTT_train.9k.csv": "video_id\nid_2\nid_3\n",
        "MSRVTT_data.json": json.dumps(MSRVTT),
    },
    "charades": {
        "Charades_v1_train.csv": "id,actions\nid_0,c092 1 2;c001 0 3\nid_1,\n",
        "Charades_v1_test.csv": "id,actions\nid_2,c092 1 2\n",
    },
    "imagenet": {
        "train_cls.txt": "n1/id_0 1\nn1/id_1 2\n",
        "LOC_val_solution.csv": "ImageId,PredictionString\nid_2,n1 0 0 1 1 \nid_3,n2 1 1 1 1\n",
    },
}
VALUES = [
    *(b"\\ud800", b'"', b"\xff", b"\0", b",", b"\n", b"../", b"id_1", b"[", b"{}", b"1e999", b""),
]


def damage(content: str, generator: random.Random) -> bytes:
    """Put something in place of a few characters, a few times."""
    data = content.encode()
    for _ in range(generator.randint(1, 3)):
        start = generator.randrange(len(data) + 1)
        end = min(len(data), start + generator.randint(0, 8))
        data = data[:start] + generator.choice(VALUES) + data[end:]
    return data


@pytest.mark.parametrize("kind", sorted(LISTS))
@pytest.mark.parametrize(
    "seeds", [range(20), pytest.param(range(20, 600), marks=pytest.mark.slow)], ids=str
)
def test_damaged_lists(tmp_path: Path, kind: str, seeds: range) -> None:
    clip = "_000000_000010" if kind.startswith("kinetics") else ""
    suffix = "JPEG" if kind == "imagenet" else "wav"
    names = [f"A/id_{number}{clip.replace('0_', f'{number}_')}.{suffix}" for number in range(4)]
    write_media(tmp_path / "media", *names, "extra.wav", "README")
    write_media(tmp_path, f"id_1.{suffix}")
    outside = {path.name for path in tmp_path.iterdir()} | {"lists", "download", ".cache"}
    num_used = 0
    for seed in seeds:
        generator = random.Random(f"{kind} {seed}")
        lists: dict[str, str | bytes] = dict(LISTS[kind])
        name = generator.choice(sorted(lists))
        lists[name] = damage(LISTS[kind][name], generator)
        refused = ""
        try:
            collection = collect(tmp_path, kind, lists)
        except StageError as error:
            refused = str(error)
        if refused:
            assert name in refused or "holds no CSV with the columns" in refused, seed
            continue
        num_used += 1
        assert collection.counts is not None  # its sums are checked
        rows, ignored = {row.video_id for row in collection.entries}, collection.ignored.keys()
        files = {*names, "extra.wav", "README"}
        assert files == files & (rows | ignored), seed
        assert not files & rows & ignored, seed
        assert collection.metrics["found"] >= len(collection.ok), seed
        assert {path.name for path in tmp_path.iterdir()} <= outside, seed
    assert num_used
