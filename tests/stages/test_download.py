"""The download stage: from sources to data/download, alone and as a process that is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.download.made_files import QuietHandler, read_tree, serve_with
from vatt.core.errors import StageError
from vatt.corpus.manifest import read_manifest
from vatt.params import DownloadParams, RunParams
from vatt.stages.download import main

PARAMS = Path(__file__).parents[2] / "params.yaml"
RUN = RunParams(seed=1)


def folder_source(name: str, url: str, **changes: object) -> dict[str, object]:
    return {"kind": "folder", "name": name, "url": url, **changes}


def sources(*given: dict[str, object]) -> DownloadParams:
    return DownloadParams.model_validate({"sources": given})


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("one/a.mp4", "one/b.wav", "two/a.mp4", "two/README", "empty/.gitkeep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_two_folders_and_an_empty_one(workplace: Path) -> None:
    given = [folder_source(name, name) for name in ("two", "one", "empty")]
    metrics = main(RUN, sources(*given))
    nothing = {"ok": 0, "failed": 0, "with_captions": 0, "with_caption_problems": 0, "ignored": 0}
    assert metrics == {
        "sources": {
            "one": {**nothing, "ok": 2},
            "two": {**nothing, "ok": 1, "ignored": 1},
            "empty": {**nothing, "ignored": 1},
        }
    }
    rows = read_manifest(workplace / "data/download")
    assert [(row.source, row.video_id) for row in rows] == [
        ("one", "a.mp4"),
        ("one", "b.wav"),
        ("two", "a.mp4"),
    ]
    ignored = (workplace / "data/download/ignored.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in ignored] == [".gitkeep", "README"]


def test_same_bytes_again_and_nothing_of_a_source_that_is_gone(workplace: Path) -> None:
    out = workplace / "data/download"
    main(RUN, sources(folder_source("one", "one")))
    first = read_tree(out)
    main(RUN, sources(folder_source("one", "one"), folder_source("two", "two")))
    (out / "stray").write_text("x")
    assert read_tree(out) != first
    main(RUN, sources(folder_source("one", "one")))
    assert read_tree(out) == first


def test_demo_and_folder_side_by_side(workplace: Path) -> None:
    demo = {"kind": "demo", "name": "demo", "num_videos": 3}
    metrics = main(RUN, sources(demo, folder_source("one", "one")))
    assert metrics["sources"]["demo"]["ok"] == 3
    for row in read_manifest(workplace / "data/download"):
        assert (workplace / "data/download" / str(row.path)).stat().st_size > 0


def test_missing_folder_is_named(workplace: Path) -> None:
    with pytest.raises(StageError, match="url = 'none': is not an existing folder"):
        main(RUN, sources(folder_source("x", "none")))
    assert not (workplace / "data/download/manifest.jsonl").exists()


def test_output_that_cannot_be_written_is_named(workplace: Path) -> None:
    (workplace / "data").write_text("a file where the folder should be")
    with pytest.raises(StageError, match=r"data.*: Not a directory|data.*: File exists"):
        main(RUN, sources(folder_source("one", "one")))


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


def test_killed_in_the_middle_of_a_file_and_run_again(workplace: Path) -> None:
    (workplace / "two" / "slow.mp4").write_bytes(os.urandom(300_000))
    SlowHandler.may_go_on, SlowHandler.half_sent = threading.Event(), threading.Event()
    with serve_with(partial(SlowHandler, directory=str(workplace / "two"))) as url:
        kill_and_run_again(workplace, url)
    asked = {f"web/{name}": path for name, path in read_tree(workplace / "two").items()}
    asked.pop("web/README")
    found = read_tree(workplace / "data/download")
    assert found.pop("manifest.jsonl")
    assert b"README" in found.pop("ignored.jsonl")
    assert found == asked
    metrics = json.loads((workplace / "metrics/download.json").read_text())
    assert metrics["sources"]["web"]["ok"] == 2


def kill_and_run_again(workplace: Path, url: str) -> None:
    content = yaml.safe_load(PARAMS.read_text())
    content["download"] = {"sources": [folder_source("web", url)]}
    (workplace / "params.yaml").write_text(yaml.safe_dump(content))
    out = workplace / "data/download"

    command = [sys.executable, "-m", "vatt", "download"]
    process = subprocess.Popen(command, cwd=workplace)
    assert SlowHandler.half_sent.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "web/slow.mp4").exists()
    assert not (out / "manifest.jsonl").exists()

    SlowHandler.may_go_on.set()
    subprocess.run(command, cwd=workplace, check=True)
