"""Data sets of the paper through the command line, up to the labels of their segments."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest
import yaml
from PIL import Image

from tests.download.made_files import read_tree
from tests.made_media import Clip, write_clip
from vatt.corpus.index import read_index
from vatt.corpus.manifest import read_manifest

PARAMS = Path(__file__).parents[2] / "params.yaml"
KINETICS = (
    "label,youtube_id,time_start,time_end,split\n"
    "abseiling,whole______,0,4,train\n"
    '"air drumming",whole______,8,12,train\n'
    "testifying,trimmed____,84,88,val\n"
    "abseiling,gone_______,0,10,val\n"
    "abseiling,../x,0,10,val\n"
)
SOURCES = [
    {"kind": "kinetics", "name": "kinetics400", "annotations": "k/lists", "media": "k/media"},
    {"kind": "imagenet", "name": "pictures", "annotations": "i", "media": "i"},
    {"kind": "youcook2", "name": "recipes", "annotations": "y", "media": "y"},
]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with miniatures of three data sets, and parameters that name them."""
    for name, duration_s in {
        "k/media/whole______.mp4": 12.0,
        "k/media/trimmed_____000084_000088.mp4": 4.0,
        "y/recipe_____.mp4": 8.0,
    }.items():
        write_clip(tmp_path / name, Clip(duration_s, frame_rate_hz=10))
    with av.open(str(tmp_path / "y/recipe_____.mp4")) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    (tmp_path / "i/val/n01440764").mkdir(parents=True)
    Image.fromarray(frame).save(tmp_path / "i/val/n01440764/ILSVRC2012_val_00000293.JPEG")
    (tmp_path / "k/media/extra.mp4").write_text("not in the list")
    (tmp_path / "k/lists").mkdir()
    (tmp_path / "k/lists/kinetics.csv").write_text(KINETICS)
    steps = [{"segment": [4, 8], "id": 0, "sentence": "stir the soup"}]
    database = {"recipe_____": {"subset": "validation", "annotations": steps}}
    (tmp_path / "y/youcookii_annotations_trainval.json").write_text(
        json.dumps({"database": database})
    )
    params = yaml.safe_load(PARAMS.read_text())
    params["download"]["sources"] = SOURCES
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def run(workplace: Path, stage: str) -> str:
    command = [sys.executable, "-m", "vatt", stage]
    finished = subprocess.run(command, cwd=workplace, check=True, capture_output=True, text=True)
    return finished.stdout


def read_segments(workplace: Path) -> dict[tuple[str, float], tuple[str, object, object]]:
    """Return split, labels and descriptions by file and start."""
    return {
        (row["video_id"], row["start_s"]): (
            row["split"],
            json.loads(row["labels"]),
            json.loads(row["descriptions"]),
        )
        for row in read_index(workplace / "data/preprocess").to_dict("records")
    }


def test_labels_arrive_in_the_index_and_counts_in_the_metrics(workplace: Path) -> None:
    printed = run(workplace, "download")
    metrics: dict[str, Any] = json.loads((workplace / "metrics/download.json").read_text())
    kinetics = metrics["sources"]["kinetics400"]
    train = {"listed": 2, "found": 2, "missing": 0, "unusable": 0}
    bad = {"listed": 1, "found": 0, "missing": 0, "unusable": 1}
    assert kinetics["by_split"]["test"] == {"listed": 2, "found": 1, "missing": 1, "unusable": 0}
    assert kinetics["by_split"]["train"] == {key: train[key] + bad[key] for key in train}
    assert {key: kinetics[key] for key in ("listed", "found", "missing", "unusable", "unused")} == {
        "listed": 5,
        "found": 3,
        "missing": 1,
        "unusable": 1,
        "unused": 0,
    }
    assert {key: kinetics[key] for key in ("ok", "failed", "ignored")} == {
        "ok": 2,
        "failed": 2,
        "ignored": 1,
    }
    assert (
        "download: kinetics400: 5 listed, 3 found, 1 missing, 1 unusable, 0 unused, 2 ok" in printed
    )
    assert "download: kinetics400: test: 2 listed, 1 found, 1 missing, 0 unusable" in printed

    run(workplace, "preprocess")
    segments = read_segments(workplace)
    assert segments == {
        ("whole______.mp4", 0.0): ("train", {"kinetics400": ["abseiling"]}, []),
        ("whole______.mp4", 4.0): ("train", {}, []),
        ("whole______.mp4", 8.0): ("train", {"kinetics400": ["air drumming"]}, []),
        ("trimmed_____000084_000088.mp4", 0.0): ("test", {"kinetics400": ["testifying"]}, []),
        ("val/n01440764/ILSVRC2012_val_00000293.JPEG", 0.0): (
            "test",
            {"pictures": ["n01440764"]},
            [],
        ),
        ("recipe_____.mp4", 0.0): ("test", {}, []),
        ("recipe_____.mp4", 4.0): ("test", {}, ["stir the soup"]),
    }
    quarantine = (workplace / "data/preprocess/quarantine.jsonl").read_text().splitlines()
    lost = [json.loads(line)["video_id"] for line in quarantine]
    assert lost == ["gone________000000_000010", "kinetics.csv line 6"]
    rows = read_manifest(workplace / "data/download")
    assert len(rows) == len({row[0] for row in segments}) + len(lost)


def test_the_same_bytes_again(workplace: Path) -> None:
    run(workplace, "download")
    first = read_tree(workplace / "data/download")
    run(workplace, "download")
    assert read_tree(workplace / "data/download") == first


def test_wrong_keys_are_refused_by_name(workplace: Path) -> None:
    params = yaml.safe_load((workplace / "params.yaml").read_text())
    params["download"]["sources"][0]["fold"] = 1
    (workplace / "params.yaml").write_text(yaml.safe_dump(params))
    command = [sys.executable, "-m", "vatt", "download"]
    finished = subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "download.sources.0.kinetics.fold: unknown key" in finished.stderr
