"""Damaged lists: they are refused by name, or every item and every file is still accounted for."""

import json
import random
from pathlib import Path

import pytest

from tests.download.datasets.miniature import collect, write_lists, write_media
from vatt.core.errors import StageError

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


def check(tmp_path: Path, kind: str, seeds: range) -> None:
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
        write_lists(tmp_path, lists)
        refused = ""
        try:
            collection = collect(tmp_path, kind)
        except StageError as error:
            refused = str(error)
        if refused:
            assert name in refused or "holds no CSV with the columns" in refused, seed
            continue
        num_used += 1
        assert collection.counts is not None
        items = collection.metrics
        rows = {row.video_id for row in collection.entries}
        files = {*names, "extra.wav", "README"}
        ignored = {file.path for file in collection.collection.ignored}
        assert files == files & (rows | ignored), seed
        assert not files & rows & ignored, seed
        assert items["found"] >= sum(row.status == "ok" for row in collection.entries), seed
        assert {path.name for path in tmp_path.iterdir()} <= outside, seed
    assert num_used


@pytest.mark.parametrize("kind", sorted(LISTS))
def test_damaged_lists(tmp_path: Path, kind: str) -> None:
    check(tmp_path, kind, range(20))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(LISTS))
def test_damaged_lists_many_times(tmp_path: Path, kind: str) -> None:
    check(tmp_path, kind, range(20, 600))
