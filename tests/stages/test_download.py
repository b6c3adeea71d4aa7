"""The download stage: from sources to data/download, alone and as a process that is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import av
import pytest
import yaml
from PIL import Image

from tests.download.made_files import QuietHandler, read_tree, serve_with, write_files
from tests.made_media import Clip, write_clip
from tests.stages.conftest import ROOT, run_module
from vatt.core.errors import StageError
from vatt.corpus.index import read_index
from vatt.corpus.manifest import read_manifest
from vatt.params import DownloadParams, RunParams
from vatt.stages.download import main

OUT = Path("data/download")
COUNTS = ("listed", "found", "missing", "unusable")


def folder_source(name: str, url: str) -> dict[str, object]:
    return {"kind": "folder", "name": name, "url": url}


def download(*sources: dict[str, object]) -> Any:
    return main(RunParams(seed=1), DownloadParams.model_validate({"sources": sources}))["sources"]


def write_params(*sources: dict[str, object]) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["download"] = {"sources": list(sources)}
    Path("params.yaml").write_text(yaml.safe_dump(params))


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("one/a.mp4", "one/b.wav", "two/a.mp4", "two/README", "empty/.gitkeep")
    write_files(tmp_path, {name: name for name in names})


def test_two_folders_and_an_empty_one() -> None:
    nothing = {"ok": 0, "failed": 0, "with_captions": 0, "with_caption_problems": 0, "ignored": 0}
    assert download(*(folder_source(name, name) for name in ("two", "one", "empty"))) == {
        "one": {**nothing, "ok": 2},
        "two": {**nothing, "ok": 1, "ignored": 1},
        "empty": {**nothing, "ignored": 1},
    }
    rows = [(row.source, row.video_id) for row in read_manifest(OUT)]
    assert rows == [("one", "a.mp4"), ("one", "b.wav"), ("two", "a.mp4")]
    ignored = (OUT / "ignored.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in ignored] == [".gitkeep", "README"]


def test_same_bytes_again_and_nothing_of_a_source_that_is_gone() -> None:
    download(folder_source("one", "one"))
    first = read_tree(OUT)
    download(folder_source("one", "one"), folder_source("two", "two"))
    (OUT / "stray").write_text("x")
    assert read_tree(OUT) != first
    download(folder_source("one", "one"))
    assert read_tree(OUT) == first


def test_demo_and_folder_side_by_side() -> None:
    demo = {"kind": "demo", "name": "demo", "num_videos": 3}
    assert download(demo, folder_source("one", "one"))["demo"]["ok"] == 3
    for row in read_manifest(OUT):
        assert (OUT / str(row.path)).stat().st_size > 0


def test_missing_folder_is_named() -> None:
    with pytest.raises(StageError, match="url = 'none': is not an existing folder"):
        download(folder_source("x", "none"))
    assert not (OUT / "manifest.jsonl").exists()


def test_output_that_cannot_be_written_is_named() -> None:
    Path("data").write_text("a file where the folder should be")
    with pytest.raises(StageError, match=r"data.*: Not a directory|data.*: File exists"):
        download(folder_source("one", "one"))


class SlowHandler(QuietHandler):
    """Sends half of a file, then waits until it may go on."""

    may_go_on: threading.Event
    half_sent: threading.Event

    def do_GET(self) -> None:
        if not self.path.endswith("slow.mp4"):
            super().do_GET()
            return
        content = (Path(self.directory) / "slow.mp4").read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.half_sent.set()
        self.may_go_on.wait(60)
        self.wfile.write(content[len(content) // 2 :])


def test_killed_in_the_middle_of_a_file_and_run_again() -> None:
    Path("two/slow.mp4").write_bytes(os.urandom(300_000))
    SlowHandler.may_go_on, SlowHandler.half_sent = threading.Event(), threading.Event()
    with serve_with(partial(SlowHandler, directory=str(Path("two").absolute()))) as url:
        write_params(folder_source("web", url))
        process = subprocess.Popen([sys.executable, "-m", "vatt", "download"])
        assert SlowHandler.half_sent.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (OUT / "web/slow.mp4").exists()
        assert not (OUT / "manifest.jsonl").exists()
        SlowHandler.may_go_on.set()
        run_module("vatt", "download")
    asked = {f"web/{name}": content for name, content in read_tree(Path("two")).items()}
    asked.pop("web/README")
    found = read_tree(OUT)
    assert found.pop("manifest.jsonl")
    assert b"README" in found.pop("ignored.jsonl")
    assert found == asked
    metrics = json.loads(Path("metrics/download.json").read_text())
    assert metrics["sources"]["web"]["ok"] == 2


@pytest.fixture
def _data_sets() -> None:
    """Miniatures of three data sets, and parameters that name them."""
    for name, duration_s in {
        "k/media/whole______.mp4": 12.0,
        "k/media/trimmed_____000084_000088.mp4": 4.0,
        "y/recipe_____.mp4": 8.0,
    }.items():
        write_clip(Path(name), Clip(duration_s, frame_rate_hz=10))
    steps = [{"segment": [4, 8], "id": 0, "sentence": "stir the soup"}]
    database = {"recipe_____": {"subset": "validation", "annotations": steps}}
    kinetics = (
        "label,youtube_id,time_start,time_end,split\n"
        "abseiling,whole______,0,4,train\n"
        '"air drumming",whole______,8,12,train\n'
        "testifying,trimmed____,84,88,val\n"
        "abseiling,gone_______,0,10,val\n"
        "abseiling,../x,0,10,val\n"
    )
    files = {
        "k/media/extra.mp4": "not in the list",
        "k/lists/kinetics.csv": kinetics,
        "y/youcookii_annotations_trainval.json": json.dumps({"database": database}),
    }
    write_files(Path(), files)
    with av.open("y/recipe_____.mp4") as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    Path("i/val/n01440764").mkdir(parents=True)
    Image.fromarray(frame).save("i/val/n01440764/ILSVRC2012_val_00000293.JPEG")
    write_params(
        {"kind": "kinetics", "name": "kinetics400", "annotations": "k/lists", "media": "k/media"},
        {"kind": "imagenet", "name": "pictures", "annotations": "i", "media": "i"},
        {"kind": "youcook2", "name": "recipes", "annotations": "y", "media": "y"},
    )


@pytest.mark.usefixtures("_data_sets")
def test_labels_arrive_in_the_index_and_counts_in_the_metrics() -> None:
    printed = run_module("vatt", "download").stdout
    kinetics = json.loads(Path("metrics/download.json").read_text())["sources"]["kinetics400"]
    counts = {
        split: tuple(row[key] for key in COUNTS) for split, row in kinetics["by_split"].items()
    }
    assert (counts["test"], counts["train"]) == ((2, 1, 1, 0), (3, 2, 0, 1))
    counted = {**dict(zip(COUNTS, (5, 3, 1, 1), strict=True)), "unused": 0}
    counted |= {"ok": 2, "failed": 2, "ignored": 1}
    assert {key: kinetics[key] for key in counted} == counted
    for line in (
        "download: kinetics400: 5 listed, 3 found, 1 missing, 1 unusable, 0 unused, 2 ok",
        "download: kinetics400: test: 2 listed, 1 found, 1 missing, 0 unusable",
    ):
        assert line in printed

    run_module("vatt", "preprocess")
    segments = {
        (row["video_id"], row["start_s"]): (
            row["split"],
            json.loads(row["labels"]),
            json.loads(row["descriptions"]),
        )
        for row in read_index(Path("data/preprocess")).to_dict("records")
    }
    picture = "val/n01440764/ILSVRC2012_val_00000293.JPEG"
    assert segments == {
        ("whole______.mp4", 0.0): ("train", {"kinetics400": ["abseiling"]}, []),
        ("whole______.mp4", 4.0): ("train", {}, []),
        ("whole______.mp4", 8.0): ("train", {"kinetics400": ["air drumming"]}, []),
        ("trimmed_____000084_000088.mp4", 0.0): ("test", {"kinetics400": ["testifying"]}, []),
        (picture, 0.0): ("test", {"pictures": ["n01440764"]}, []),
        ("recipe_____.mp4", 0.0): ("test", {}, []),
        ("recipe_____.mp4", 4.0): ("test", {}, ["stir the soup"]),
    }
    quarantine = Path("data/preprocess/quarantine.jsonl").read_text().splitlines()
    lost = [json.loads(line)["video_id"] for line in quarantine]
    assert lost == ["gone________000000_000010", "kinetics.csv line 6"]
    assert len(read_manifest(OUT)) == len({row[0] for row in segments}) + len(lost)


@pytest.mark.usefixtures("_data_sets")
def test_the_same_bytes_again_and_wrong_keys_are_refused_by_name() -> None:
    run_module("vatt", "download")
    first = read_tree(OUT)
    run_module("vatt", "download")
    assert read_tree(OUT) == first
    params = Path("params.yaml").read_text()
    Path("params.yaml").write_text(
        params.replace("name: kinetics400", "name: kinetics400\n    fold: 1")
    )
    refused = run_module("vatt", "download", check=False)
    assert refused.returncode == 1
    assert "download.sources.0.kinetics.fold: unknown key" in refused.stderr
