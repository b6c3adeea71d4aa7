"""A source with `captions: asr`, through the stages download and preprocess."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.transcription import count_word_errors
from tests.preprocess.spoken_corpus import SENTENCES, model_dir, write_spoken_files
from vatt.corpus.index import read_index
from vatt.corpus.shards import LocalShards

ROOT = Path(__file__).parents[2]
MADE_UP = {"babble.wav", "hum.wav"}
FIRST = "preprocess: 9 of 9 files are new or changed"


class Project:
    """A folder with params.yaml, in which stages run as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
        source = {"kind": "folder", "name": "clips", "url": "clips", "captions": "asr"}
        self.params["download"]["sources"] = [source | {"validation_rate": 0.0, "test_rate": 0.0}]
        self.params["preprocess"]["asr"]["model"] = str(model_dir())

    def run(self, stage: str, **environment: str) -> str:
        """Run a stage; returns what it printed, or its error."""
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.params), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "vatt", stage],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else done.stderr

    def read_metrics(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "metrics/preprocess.json").read_text())
        return content

    def read_transcripts(self) -> dict[str, dict[str, Any]]:
        lines = (self.folder / "data/preprocess/transcripts.jsonl").read_text().splitlines()
        return {row["video_id"]: row for row in map(json.loads, lines)}

    def list_store(self, kind: str) -> dict[Path, int]:
        """Return the entries of the store; one that was made again is another file."""
        paths = self.folder.glob(f".cache/preprocess/{kind}/*/*")
        return {path: path.stat().st_ino for path in paths}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("spoken"))
    write_spoken_files(project.folder / "clips")
    assert "8 to_transcribe" in project.run("download")
    assert FIRST in project.run("preprocess")
    return project


def test_the_words_are_those_that_were_said(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    transcripts = project.read_transcripts()
    errors = {}
    for name, said in SENTENCES.items():
        row = transcripts[name]
        assert row["language"] == "en"
        heard = " ".join(line["text"] for line in row["lines"])
        errors[name] = count_word_errors(said, heard)
    with capsys.disabled():
        print("\nword errors: " + ", ".join(f"{n} {e}/{w}" for n, (e, w) in errors.items()))
    num_errors, num_words = map(sum, zip(*errors.values(), strict=True))
    assert num_errors / num_words < 0.15  # whisper-tiny.en: 0.06


def test_word_errors_are_counted() -> None:
    said = "the cat sat on the mat"
    assert count_word_errors(said, "The cat sat on the mat.") == (0, 6)
    assert count_word_errors(said, "a cat sat the mat too") == (3, 6)
    assert count_word_errors(said, "") == (6, 6)


def test_captions_are_in_the_shards_and_in_the_index(project: Project) -> None:
    folder = project.folder / "data/preprocess"
    rows = read_index(folder)
    assert set(rows["video_id"]) == {*SENTENCES, *MADE_UP, "told.ogg", "mute.mp4"}
    captioned = rows[rows["num_captions"] > 0]
    assert set(captioned["video_id"]) == {*SENTENCES, "told.ogg"}
    told = {**project.read_transcripts(), "told.ogg": {"lines": [{"text": "what a person wrote"}]}}
    shards = LocalShards(folder / "shards")
    for row in rows.drop_duplicates("video_id").to_dict("records"):
        end = row["meta_offset"] + row["meta_bytes"]
        meta = json.loads(shards.read(row["shard"], row["meta_offset"], end))
        lines = [line["text"] for line in told[row["video_id"]]["lines"]]
        assert [caption["text"] for caption in meta["captions"]] == lines


def test_words_lie_in_their_line_one_after_the_other(project: Project) -> None:
    for name in SENTENCES:
        for line in project.read_transcripts()[name]["lines"]:
            words = line["words"]
            assert "".join(word["text"] for word in words) == line["text"].replace(" ", "")
            times_s = [time for word in words for time in (word["start_s"], word["end_s"])]
            assert times_s == sorted(times_s)
            assert line["start_s"] == times_s[0]
            assert line["end_s"] >= times_s[-1]
            assert line["end_s"] - line["start_s"] <= 5.0


def test_what_nobody_said_is_left_out_and_counted(project: Project) -> None:
    transcripts = project.read_transcripts()
    assert set(transcripts) == {*SENTENCES, *MADE_UP, "mute.mp4"}  # told.ogg has a caption file
    for name in (*MADE_UP, "mute.mp4"):
        assert (transcripts[name]["language"], transcripts[name]["lines"]) == (None, [])
    reasons = {name: {line["reason"] for line in transcripts[name]["left_out"]} for name in MADE_UP}
    assert "repeated" in reasons["babble.wav"]
    assert reasons["hum.wav"] == {"without speech"}
    metrics = project.read_metrics()
    assert (metrics["transcribed"], metrics["files_in_en"]) == (8, 5)
    assert metrics["files_without_speech"] == 3
    for reason in ("repeated", "without speech"):
        count = sum(
            line["reason"] == reason for row in transcripts.values() for line in row["left_out"]
        )
        assert metrics[f"lines_{reason.replace(' ', '_')}"] == count > 0


def test_only_what_changed_is_heard_again(project: Project) -> None:
    assert "preprocess: 0 of 9 files are new or changed" in project.run("preprocess")
    transcripts, fragments = project.list_store("transcripts"), project.list_store("fragments")
    assert (len(transcripts), len(fragments)) == (8, 9)
    project.params["preprocess"]["key_frame_interval"] = 4  # of no use to what is heard
    assert FIRST in project.run("preprocess")
    assert project.list_store("transcripts") == transcripts
    before = project.read_transcripts()
    fragments = project.list_store("fragments")
    project.params["preprocess"]["asr"]["language"] = "en"
    assert "preprocess: 8 of 9 files are new or changed" in project.run("preprocess")
    assert not project.list_store("transcripts").keys() & transcripts.keys()
    assert len(project.list_store("fragments").keys() & fragments.keys()) == 1
    after = project.read_transcripts()
    assert {name: row["lines"] for name, row in before.items()} == {
        name: row["lines"] for name, row in after.items()
    }


def test_without_the_model_the_stage_says_what_is_needed(project: Project) -> None:
    asr = project.params["preprocess"]["asr"]
    project.params["preprocess"]["asr"] = asr | {"model": "no-such-model"}
    message = project.run("preprocess")
    assert "preprocess.asr.model = no-such-model: is no folder" in message
    assert "large-v3" in message
    project.params["preprocess"]["asr"] = asr | {"model": "clips"}
    assert "clips has no config.json, model.bin, tokenizer.json" in project.run("preprocess")
    project.params["preprocess"]["asr"] = asr | {"device": "cuda", "language": "de"}
    assert "device='cuda'" in project.run("preprocess", CUDA_VISIBLE_DEVICES="")
    project.params["preprocess"]["asr"] = asr
