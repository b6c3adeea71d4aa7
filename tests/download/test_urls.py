"""The urls source: every row of a list of addresses ends in the manifest or among the ignored."""

import hashlib
from pathlib import Path

import pytest

from tests.download.datasets.miniature import Found
from tests.download.made_files import QUICK, zip_of
from tests.download.misbehaving_server import content_of, serve
from vatt.core.errors import StageError
from vatt.corpus.manifest import Annotation, read_manifest, write_manifest
from vatt.download.collection import Collection
from vatt.download.folder import collect_urls
from vatt.params import UrlsSource

VTT = b"WEBVTT\n\n00:01.000 --> 00:02.000\nhello\n"
LABELS = b"path,task,label,split\na.mp4,action,run,test\nx/in.mp4,action,jump,train\n"


def collect(rows: str, **changes: object) -> Collection:
    Path("list.csv").write_text(rows, encoding="utf-8")
    source = UrlsSource.model_validate(
        {"kind": "urls", "name": "web", "addresses": "list.csv", **changes}
    )
    collection = collect_urls(source, Path("data"), QUICK)
    write_manifest(Path("data"), collection.entries)
    collection.entries = read_manifest(Path("data"))
    return collection


def test_every_row_of_a_list_is_accounted_for() -> None:
    members = {"in.mp4": b"in", "in.vtt": VTT, "README": b"x", "__MACOSX/._in.mp4": b"x"}
    archive = zip_of(members)
    Path("labels.csv").write_bytes(LABELS)
    with serve() as (address, record):
        record.files |= {"/well/x.zip": archive, "/well/bad.zip": zip_of({"../evil.mp4": b""})}
        record.files["/well/a.vtt"] = VTT
        digest = hashlib.sha256(content_of("/half/a.mp4")).hexdigest()
        rows = (
            "address,name,sha256\n"
            f"{address}/half/a.mp4,,{digest}\n"
            f"{address}/well/a.vtt,,\n"
            f"{address}/well/b,sub/b.wav,\n"
            f"{address}/well/c.mp4,,{'0' * 64}\n"
            f"{address}/refuse/404/d.mp4,,\n"
            f"{address}/well/x.zip,,{hashlib.sha256(archive).hexdigest()}\n"
            f"{address}/well/bad.zip,,\n"
            f"{address}/well/notes.pdf,,\n"
            f"{address}/well/e.mp4,../e.mp4,\n"
            "nonsense://host/nonsense.mp4,,\n"
            "labels.csv,,\n"
        )
        first = collect(rows, labels_csv="labels.csv")
        num_requests = len(record.requests)
        again = collect(rows, labels_csv="labels.csv")
        asked = [path for path, _ in record.requests[num_requests:]]
    found = Found(first).ok
    archives = "web_archives/x"
    assert found.keys() == {"a.mp4", "sub/b.wav", f"{archives}/in.mp4"}
    assert found["a.mp4"].captions_path == "web/a.vtt"
    assert found["a.mp4"].split == "test"
    assert found["a.mp4"].annotations == (Annotation("action", "run"),)
    assert found[f"{archives}/in.mp4"].captions_path == f"web/{archives}/in.vtt"
    assert Path("data/web/a.mp4").read_bytes() == content_of("/half/a.mp4")
    assert Path(f"data/web/{archives}/in.mp4").read_bytes() == b"in"
    reasons = {name: str(reason) for name, reason in Found(first).failed.items()}
    assert reasons.keys() == {
        *("c.mp4", "d.mp4", "../e.mp4", "nonsense.mp4", f"{address}/well/bad.zip", "x/in.mp4")
    }
    assert "its sha256 is" in reasons["c.mp4"]
    assert "404" in reasons["d.mp4"]
    assert "'../evil.mp4' leaves the folder" in reasons[f"{address}/well/bad.zip"]
    assert {file.path for file in first.ignored} == {
        *("notes.pdf", f"{archives}/README", f"{archives}/__MACOSX/._in.mp4")
    }
    assert (again.entries, again.ignored) == (first.entries, first.ignored)
    assert asked == []
    assert not Path("evil.mp4").exists()


def test_what_is_no_longer_listed_is_removed() -> None:
    with serve() as (address, _):
        collect(f"{address}/well/a.mp4\n{address}/well/b.mp4\n")
        collection = collect(f"{address}/well/b.mp4\n")
    assert Found(collection).ok.keys() == {"b.mp4"}
    assert [path.name for path in Path("data/web").iterdir()] == ["b.mp4"]


def test_lists_and_labels_that_are_not_there() -> None:
    source = UrlsSource(kind="urls", name="web", addresses="none.csv")
    with pytest.raises(StageError, match=r"addresses = 'none\.csv': cannot be read"):
        collect_urls(source, Path("data"), QUICK)
    with pytest.raises(StageError, match=r"labels_csv = 'labels\.csv': is not in web"):
        collect("", labels_csv="labels.csv")


def test_an_empty_list() -> None:
    assert collect("").entries == []
