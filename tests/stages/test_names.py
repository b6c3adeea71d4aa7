"""Names of 240 to 255 bytes, the most that file systems take, through the stages of the data."""

import json
import os
from pathlib import Path

import pytest

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS as PREPROCESS
from tests.preprocess.runs import read_quarantine
from tests.stages.conftest import ROOT, RUN
from tests.train.corpus import LAUNCH
from vatt.corpus.index import read_index
from vatt.corpus.manifest import read_manifest
from vatt.params import DownloadParams, load_params
from vatt.stages import download, preprocess, validate

CUE = "WEBVTT\n\n00:00.000 --> 00:02.000\n{}\n"
LETTERS = "xé字🎥"  # of one to four bytes


def make_name(number: int, num_bytes: int, letter: str, suffix: str) -> str:
    """Return a name of so many bytes, as few letters as possible; the number makes it unique."""
    num_letters, rest = divmod(num_bytes - len(f"{number:02}{suffix}"), len(letter.encode()))
    return f"{number:02}{'-' * rest}{letter * num_letters}{suffix}"


def test_files_with_the_longest_names_come_through_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third each has a caption file beside it, narration in the labels, or one in a file of all.

    Bytes that are no UTF-8 are written out in the copy's name, which then gets too long.
    """
    monkeypatch.chdir(tmp_path)
    inputs, names, labels, captions = tmp_path / "in", [], ["path,task,text,start,end"], {}
    for number, num_bytes in enumerate(range(240, 256)):
        name = make_name(number, num_bytes, LETTERS[number % 4], (".mp4", ".wav")[number % 2])
        clip = Clip(duration_s=2.5 + number / 50, flash_s=(number / 10,), video=number % 2 == 0)
        write_clip(inputs / name, clip)
        assert len(name.encode()) == num_bytes
        names.append(name)
        spoken = f"words of {number}"
        if number % 3 == 0:
            (inputs / f"{name[:-4]}.vtt").write_text(CUE.format(spoken), encoding="utf-8")
        elif number % 3 == 1:
            labels.append(f"{name},audio_speech,{spoken},0,2")
        else:
            captions[name[:-4]] = {"start": [0], "end": [2], "text": [spoken]}
    (inputs / "labels.csv").write_text("\n".join(labels), encoding="utf-8")
    (inputs / "caption.json").write_text(json.dumps(captions), encoding="utf-8")
    foreign = [b"\xff" * 251 + suffix for suffix in (b".mp4", b".vtt", b".srt")]
    for bytes_name in foreign:
        Path(os.fsdecode(os.fsencode(inputs) + b"/" + bytes_name)).touch()
    source = {"kind": "folder", "name": "long", "url": str(inputs), "labels_csv": "labels.csv"}
    params = DownloadParams.model_validate({"sources": [source]})
    for _ in range(2):  # the second finds all in place
        download.main(RUN, params)
    rows = {row.video_id: row for row in read_manifest(Path("data/download")) if row.path}
    assert sorted(rows) == names
    assert all(row.captions_path for row in rows.values())
    preprocess.main(PREPROCESS, LAUNCH)
    index = read_index(Path("data/preprocess"))
    assert sorted(set(index["video_id"])) == names
    assert (index["num_captions"] > 0).all()
    quarantined = read_quarantine(Path("data/preprocess"))
    assert len(quarantined) == len(foreign)
    assert all("too long: 255 bytes" in reason for reason in quarantined.values())
    assert validate.main(load_params(ROOT / "params.yaml").validation)["expectations"]
