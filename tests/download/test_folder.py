"""The folder source: every file of a folder ends in the manifest or among the ignored files."""

import json
import os
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from tests.download.datasets.miniature import Found
from tests.download.made_files import write_files
from tests.made_media import CAPTIONS, write_zoo
from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation, read_manifest, write_manifest
from vatt.download.folder import collect_folder, draw_split
from vatt.media.captions import Caption, read_captions
from vatt.media.encodings import CaptionError
from vatt.params import FolderSource

VTT = "WEBVTT\n\n00:01.000 --> 00:02.000\nhello\n"


def collect(folder: Path, **changes: object) -> Found:
    """Collect a folder; what is returned is what a reader of the manifest gets."""
    source = FolderSource.model_validate(
        {"kind": "folder", "name": "mine", "url": str(folder), **changes}
    )
    download_dir = folder.parent / "download"
    collection = collect_folder(source, download_dir)
    write_manifest(download_dir, collection.entries)
    collection.entries = read_manifest(download_dir)
    return Found(collection)


def test_every_file_is_accounted_for(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    files = ["a.mp4", "a.vtt", "a.de.vtt", "b.wav", "b.json", "sub/c.MKV", "sub/c.srt", "d.vtt"]
    files += ["README.md", "other.json", "table.csv", "labels.csv", ".DS_Store", "sub/a.vtt"]
    write_files(folder, dict.fromkeys(files, VTT))
    columns = '{"start": [0], "end": [1], "text": ["hello"]}'
    write_files(folder, {"labels.csv": "path,task\n", "b.json": columns})
    collection = collect(folder, labels_csv="labels.csv")
    assert {name: row.captions_path for name, row in collection.ok.items()} == {
        "a.mp4": "mine/a.vtt",
        "b.wav": "mine/b.json",
        "sub/c.MKV": "mine/sub/c.srt",
    }
    reason = "no media file of the same name is beside this caption file"
    assert collection.failed == {
        "d.vtt": reason,
        "sub/a.vtt": reason,
    }
    other = "neither a media file nor the captions of one"
    assert collection.ignored == {
        ".DS_Store": "is hidden: a name that starts with a dot",
        "README.md": other,
        "a.de.vtt": "a.vtt is used instead",
        "other.json": other,
        "table.csv": other,
    }
    used = {"labels.csv", "a.vtt", "b.json", "sub/c.srt"}
    accounted = [*collection.ok, *collection.failed, *collection.ignored, *used]
    assert sorted(accounted) == sorted(files)


def test_captions_are_of_one_video_and_the_first_that_hold_any(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    media = ["talk.mp4", "talk.two.mp4", "a.mp4", "b.mp4", "b.mp3", f"{apart}.mp4", "meta.mp4"]
    texts = ["talk.two.vtt", "a.de.srt", "a.eng.srt", "b.EN.srt", f"{composed}.vtt", "empty.srt"]
    folder = tmp_path / "folder"
    write_files(folder, dict.fromkeys([*media, "empty.mp4", *texts, "meta.en.srt"], VTT))
    write_files(folder, {"meta.json": '{"title": "x"}', "empty.vtt": "", "a.json": "[]"})
    damaged = VTT.replace("00:01.000", "00:01 000")
    write_files(folder, {"talk.json": '{"title": "x"}', "b.vtt": damaged, "b.srt": ""})
    write_files(folder, {"labels.csv": f"path,task,label\n{composed}.mp4,action,stir\n"})
    collection = collect(folder, labels_csv="labels.csv")
    assert {name: row.captions_path for name, row in collection.ok.items()} == {
        "talk.mp4": None,
        "talk.two.mp4": "mine/talk.two.vtt",
        "a.mp4": "mine/a.eng.srt",
        "b.mp4": "mine/b.EN.srt",
        "b.mp3": None,
        f"{apart}.mp4": f"mine/{composed}.vtt",
        "meta.mp4": "mine/meta.en.srt",
        "empty.mp4": "mine/empty.srt",
    }
    assert [note.label for note in collection.ok[f"{apart}.mp4"].annotations] == ["stir"]
    assert not collection.failed
    assert collection.ignored["a.de.srt"] == "a.eng.srt is used instead"
    assert "is not of the form" in collection.ignored["meta.json"]
    assert "is not of the form" in collection.ignored["talk.json"]
    assert collection.ignored["b.vtt"] == "holds no captions; b.EN.srt is used instead"
    assert collection.ignored["b.srt"].endswith("; b.EN.srt is used instead")
    assert collection.ignored["meta.json"].endswith("; meta.en.srt is used instead")
    assert collection.ignored["empty.vtt"].startswith("holds no caption")
    copies = {path: path.stat().st_ctime_ns for path in (tmp_path / "download/mine").iterdir()}
    assert tmp_path / "download/mine/empty.vtt" in copies
    assert collect(folder, labels_csv="labels.csv").entries == collection.entries
    # Nothing was fetched again. (A new file may get the number of a removed one.)
    assert {path: path.stat().st_ctime_ns for path in copies} == copies
    (folder / "b.vtt").write_text(VTT)
    assert collect(folder, labels_csv="labels.csv").ok["b.mp4"].captions_path == "mine/b.vtt"
    assert not (tmp_path / "download/mine/b.EN.srt").exists()


def test_zoo_of_bad_media_and_odd_names_arrives_whole(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    names = write_zoo(folder)
    collection = collect(folder)
    assert collection.ok.keys() == names.keys()
    assert len(collection.entries) == len(names)
    assert not collection.ignored
    for name, row in collection.ok.items():
        assert row.path == f"mine/{name}"
        assert (tmp_path / "download" / row.path).read_bytes() == (folder / name).read_bytes()
    with_captions = {name for name, row in collection.ok.items() if row.captions_path}
    assert with_captions == {f"{name}.mp4" for name in CAPTIONS}


def test_names_that_become_equal_are_not_lost(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x\\udcff.mp4").write_text("plain")
    Path(os.fsdecode(os.fsencode(folder) + b"/x\xff.mp4")).write_text("not UTF-8")
    collection = collect(folder)
    assert list(collection.ok) == ["x\\udcff.mp4"]
    assert list(collection.failed.values()) == ["another file is called x\\udcff.mp4 too"]


def test_what_disappears_from_the_source_disappears_from_the_copy(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_files(folder, {"a.mp4": "a", "sub/b.mp4": "b", "sub/b.vtt": VTT})
    collect(folder)
    (tmp_path / "download" / "mine" / "c.mp4.partial").touch()
    (folder / "sub" / "b.mp4").unlink()
    collect(folder)
    copy = tmp_path / "download" / "mine"
    assert [path.name for path in copy.rglob("*")] == ["a.mp4"]


def test_captions_that_cannot_be_fetched_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_captions(self: LocalFileSystem, address: str, target: str) -> None:
        if address.endswith(".vtt"):
            raise PermissionError(13, "Permission denied")
        shutil.copyfile(address, target)

    monkeypatch.setattr(LocalFileSystem, "get_file", refuse_captions)
    write_files(tmp_path / "folder", {"a.mp4": "a", "a.vtt": VTT})
    (row,) = collect(tmp_path / "folder").entries
    assert (row.status, row.captions_path) == ("ok", None)
    assert row.caption_problem == "a.vtt: cannot be fetched: Permission denied"


def test_labels_narration_and_splits(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    labels = (
        "path,task,label,start,end,text,split\n"
        "run/a.mp4,action,run,0,2,,test\n"
        "run/a.mp4,caption,,,,A man runs.,\n"
        "b.wav,audio_speech,transcript,2.5,4,then this,validation\n"
        "b.wav,audio_speech,transcript,0,2,first this,\n"
        "c.mp4,audio_speech,word,0,1,not used,train\n"
        "c.vtt,captions,,,,,\n"
        "README,doc,x,,,,\n"
        "../b.wav,doc,x,,,,\n"
        "gone.mp4,action,run,,,,\n"
    )
    files = {"run/a.mp4": "a", "b.wav": "b", "c.mp4": "c", "c.vtt": VTT, "README": ""}
    write_files(folder, {**files, "labels.csv": labels})
    collection = collect(folder, labels_csv="labels.csv", labels_from_folders="kind")
    rows = collection.ok
    splits = {"run/a.mp4": "test", "b.wav": "validation", "c.mp4": "train"}
    assert collection.splits == splits
    assert rows["run/a.mp4"].annotations == (
        Annotation("action", "run", 0.0, 2.0),
        Annotation("caption", None, None, None, "A man runs."),
        Annotation("kind", "run"),
    )
    spoken = rows["b.wav"]
    assert str(spoken.captions_path).endswith(".csv")
    assert read_captions(tmp_path / "download" / str(spoken.captions_path)).captions == [
        Caption(0.0, 2.0, "first this"),
        Caption(2.5, 4.0, "then this"),
    ]
    assert rows["c.mp4"].captions_path == "mine/c.vtt"
    assert collection.failed == {
        "README": "labels.csv line 8: path = 'README': is no media file of the folder",
        "../b.wav": "labels.csv line 9: path = '../b.wav': is no media file of the folder",
        "gone.mp4": "labels.csv line 10: path = 'gone.mp4': is no media file of the folder",
    }
    gone = next(row for row in collection.entries if row.video_id == "gone.mp4")
    assert gone.annotations == (Annotation("action", "run"),)


@pytest.mark.parametrize("path", ["/", ".", "..", "a/", "a.mp4/x", "\U0001f600"])
def test_odd_paths_in_the_labels_are_failed_rows(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "folder"
    write_files(folder, {"a.mp4": "a", "labels.csv": f"path,task,label\n{path},action,run\n"})
    rows = collect(folder, labels_csv="labels.csv").entries
    assert Counter(row.status for row in rows) == {"ok": 1, "failed": 1}


def test_howto100m_with_one_file_for_all_captions(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    captions = {
        "a1": {"start": [1.5], "end": [3], "text": ["stir it"]},
        "b2": {"start": [1], "end": [], "text": []},
        "c3": {"start": [0], "end": [1], "text": ["not used"]},
        "gone": {"start": [], "end": [], "text": []},
    }
    files = {"sub/a1.mp4": "a", "b2.webm": "b", "c3.mp4": "c", "c3.vtt": VTT, "d4.mp4": "d"}
    write_files(folder, {**files, "caption.json": json.dumps(captions)})
    collection = collect(folder)
    rows = collection.ok
    found = rows["sub/a1.mp4"]
    assert str(found.captions_path).endswith(".json")
    path = tmp_path / "download" / str(found.captions_path)
    assert read_captions(path).captions == [Caption(1.5, 3.0, "stir it")]
    with pytest.raises(CaptionError, match="differ in length: 1 start, 0 end, 0 text"):
        read_captions(tmp_path / "download" / str(rows["b2.webm"].captions_path))
    assert rows["c3.mp4"].captions_path == "mine/c3.vtt"
    assert rows["d4.mp4"].captions_path is None
    assert collection.ignored == {"caption.json": "1 of its 4 videos are not in the folder"}


@pytest.mark.parametrize("content", ["[1]", '{"a": 1}', "{", "\0"])
def test_broken_file_of_all_captions_is_named(tmp_path: Path, content: str) -> None:
    write_files(tmp_path / "folder", {"a.mp4": "a", "raw_caption.json": content})
    with pytest.raises(StageError, match=r"raw_caption\.json: is not"):
        collect(tmp_path / "folder")


def test_caption_json_beside_caption_mp4_is_of_that_video(tmp_path: Path) -> None:
    captions = {"start": [1], "end": [2], "text": ["hello"]}
    write_files(tmp_path / "folder", {"caption.mp4": "a", "caption.json": json.dumps(captions)})
    (row,) = collect(tmp_path / "folder").entries
    assert (row.captions_path, row.caption_problem) == ("mine/caption.json", None)


def test_missing_labels_csv(tmp_path: Path) -> None:
    write_files(tmp_path / "folder", {"a.mp4": "a"})
    with pytest.raises(StageError, match=r"labels_csv = '\.\./x\.csv': is not in "):
        collect(tmp_path / "folder", labels_csv="../x.csv")


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".gitkeep").touch()
    assert collect(tmp_path / "folder").entries == []


def test_splits_have_the_asked_shares_and_stay() -> None:
    names = [f"folder/clip {number}.mp4" for number in range(20_000)]
    shares = Counter(draw_split(name, 0.1, 0.2) for name in names)
    assert shares["test"] / 20_000 == pytest.approx(0.2, abs=0.01)
    assert shares["validation"] / 20_000 == pytest.approx(0.1, abs=0.01)
    # The test split of a corpus must never move into training when the rates grow.
    for name in names[:1000]:
        if draw_split(name, 0.1, 0.2) == "test":
            assert draw_split(name, 0.3, 0.4) == "test"
        assert draw_split(name, 0.1, 0.2) == draw_split(name.replace(".mp4", ".webm"), 0.1, 0.2)
    assert {draw_split(name, 0.0, 1.0) for name in names[:100]} == {"test"}
    assert {draw_split(name, 0.0, 0.0) for name in names[:100]} == {"train"}


@pytest.mark.parametrize("url", [".", "data", "data/download/other"])
def test_a_folder_with_the_outputs_in_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/download/other").mkdir(parents=True)
    source = FolderSource(kind="folder", name="clips", url=url)
    with pytest.raises(StageError, match="or lies in it"):
        collect_folder(source, Path("data/download"))


LINKS = {
    "above": "..",
    "root": "/",
    "outputs": "../download",
    "part of the outputs": "../download/mine",
    "file of the outputs.mp4": "../download/mine/a.mp4",
}


def test_outputs_are_never_inputs_whatever_links_lead_there(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_files(folder, {"a.mp4": "a"})
    write_files(tmp_path, {"elsewhere/b.mp4": "b"})
    (folder / "elsewhere").symlink_to("../elsewhere")
    collect(folder)
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    first, second = collect(folder), collect(folder)
    assert first.ok.keys() == second.ok.keys() == {"a.mp4", "elsewhere/b.mp4"}
    above = "is a link to a folder that holds the folder of this source"
    written = f"leads to what this stage writes: {tmp_path / 'download'}"
    assert (
        first.failed
        == second.failed
        == {
            "above/": above,
            "root/": above,
            "outputs/": written,
            "part of the outputs/": written,
            "file of the outputs.mp4": written,
        }
    )
    copied = {path.name for path in (tmp_path / "download").rglob("*.mp4")}
    assert copied == {"a.mp4", "b.mp4"}


NEW_SUFFIXES = ("vob", "mxf", "3g2", "m4b", "mka", "asf", "f4v", "gif", "amr", "caf", "M4V")


@pytest.mark.parametrize("suffix", NEW_SUFFIXES)
def test_media_files_are_known_by_their_suffix(suffix: str, tmp_path: Path) -> None:
    write_files(tmp_path / "folder", {f"a.{suffix}": "a"})
    assert collect(tmp_path / "folder").ok.keys() == {f"a.{suffix}"}
