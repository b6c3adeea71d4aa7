"""Addresses in place of a folder: files, archives with digests, videos of a site."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.download.datasets.miniature import ESC50, collect, write_media
from tests.download.made_files import write_files, zip_of
from vatt.core.errors import StageError
from vatt.download import fetch
from vatt.download.remote_files import GoneError, SiteVideo


def test_a_list_of_addresses(tmp_path: Path, server: str) -> None:
    write_media(tmp_path / "media", "x/a.wav", "b 1.wav", "c.wav", "extra.wav")
    write_media(tmp_path, "local/d.wav")
    rows = [
        ("", f"{server}/x/a.wav"),
        ("b.wav", f"{server}/b%201.wav"),
        ("c.wav", f"{server}/gone.wav"),
        ("", str(tmp_path / "local/d.wav")),
        ("", f"{server}/extra.wav"),
        ("../../e.wav", f"{server}/c.wav"),
        ("d.wav", f"{server}/c.wav"),
        ("", f"{server}/page?file=a.wav"),
    ]
    table = "name,address\r\n" + "".join(f'"{name}",{address}\r\n' for name, address in rows)
    write_files(tmp_path, {"addresses.csv": table})
    addresses = str(tmp_path / "addresses.csv")
    collection = collect(tmp_path, "esc50", ESC50, media=None, addresses=addresses)
    assert sorted(collection.ok) == ["a.wav", "b.wav", "d.wav"]
    assert (tmp_path / "download/mine/b.wav").read_text() == "b 1.wav"
    assert (tmp_path / "download/mine/d.wav").read_text() == "local/d.wav"
    assert collection.counts == {"test": (3, 0, 1)}
    ((name, reason),) = collection.failed.items()
    assert (name, "cannot be fetched" in str(reason)) == ("c.wav", True)
    assert collection.ignored == {
        "../../e.wav": "the name leaves the folder",
        "d.wav": "another file is called d.wav too",
        "extra.wav": "is not in the official list",
        "page": "is no media file",
    }
    # The simplest form: an address a line.
    write_files(tmp_path, {"plain.txt": f"\n{server}/x/a.wav\n\n{server}/c.wav\n"})
    plain = collect(tmp_path, "esc50", media=None, addresses=str(tmp_path / "plain.txt"))
    assert sorted(plain.ok) == ["a.wav", "c.wav"]
    with pytest.raises(StageError, match=r"addresses = 'none\.csv': cannot be read: No such file"):
        collect(tmp_path, "esc50", media=None, addresses="none.csv")


def write_zip(path: Path, *names: str) -> str:
    """Write an archive of files that hold their names, and return its digest."""
    content = zip_of({name: name for name in names})
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_archives_with_their_digests(tmp_path: Path, server: str) -> None:
    lists = {"esc50.csv": "filename,fold,category\na.wav,1,dog\nb.wav,1,cat\n"}
    digest = write_zip(tmp_path / "media/first.zip", "ESC-50/audio/a.wav", "ESC-50/extra.wav")
    write_zip(tmp_path / "media/second.zip", "b.wav")
    write_zip(tmp_path / "media/evil.zip", "../../b.wav")
    table = (
        "address,name,sha256\n"
        f"{server}/first.zip,,{digest.upper()}\n"
        f"{server}/second.zip,other/b,{'0' * 64}\n"
        f"{server}/evil.zip,,\n"
    )
    write_files(tmp_path, {"addresses.csv": table})
    given: dict[str, Any] = {"media": None, "addresses": "addresses.csv"}
    collection = collect(tmp_path, "esc50", lists, **given)
    assert collection.labels == {"mine_archives/first/ESC-50/audio/a.wav": ["dog"]}
    assert list(collection.failed) == ["b.wav"]
    reasons = collection.ignored
    assert reasons.pop("mine_archives/first/ESC-50/extra.wav") == "is not in the official list"
    assert "not 000000" in reasons.pop(f"{server}/second.zip")
    assert "leaves the folder" in reasons.pop(f"{server}/evil.zip")
    assert not reasons
    assert not list(tmp_path.rglob("b.wav"))
    # What another list needs is still there, when the server is not.
    (tmp_path / "media/first.zip").unlink()
    lists = {"esc50.csv": "filename,fold,category\nextra.wav,1,dog\n"}
    again = collect(tmp_path, "esc50", lists, **given)
    assert list(again.ok) == ["mine_archives/first/ESC-50/extra.wav"]


def test_rows_of_addresses_that_are_wrong_are_named(tmp_path: Path) -> None:
    write_files(tmp_path, {"addresses.csv": "address,start\n\nhttps://youtu.be/abc,now\n"})
    with pytest.raises(StageError, match=r"addresses\.csv row 2: start = 'now': must be a number"):
        collect(tmp_path, "esc50", ESC50, media=None, addresses="addresses.csv")


def test_videos_of_a_site_are_asked_for_by_the_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch_video(file: SiteVideo, folder: Path, *_: object) -> Path:
        asked.append((file.address.partition("watch?v=")[2], file.start_s, file.end_s))
        if "gone" in file.address:
            raise GoneError("Video unavailable")
        folder.mkdir(parents=True)
        (folder / "video.mp4").write_text(file.address)
        return folder / "video.mp4"

    monkeypatch.setattr(fetch, "fetch_video", fetch_video)
    header = "label,youtube_id,time_start,time_end,split\n"
    rows = "run,aaa,1,11,train\nrun,gone,0,10,train\nhop,aaa,20,30,train\nhop,../x,0,10,train\n"
    lists = {"train.csv": header + rows + "hop,test,0,10,test\n"}
    collection = collect(tmp_path, "kinetics", lists, media=None, site="youtube")
    assert sorted(asked) == [("aaa", 1.0, 11.0), ("aaa", 20.0, 30.0), ("gone", 0.0, 10.0)]
    assert collection.labels == {"aaa_000001_000011.mp4": ["run"], "aaa_000020_000030.mp4": ["hop"]}
    assert collection.counts == {"train": (2, 1, 1)}
    assert collection.failed["gone_000000_000010.mp4"] == "missing: Video unavailable"
    # Nothing that is here, and nothing that is gone for good, is asked for again.
    assert collect(tmp_path, "kinetics", media=None, site="youtube").entries == collection.entries
    assert len(asked) == 3
