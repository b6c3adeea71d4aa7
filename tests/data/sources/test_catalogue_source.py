"""Data sets of the paper: every item and every file is accounted for, also when there are many."""

import json
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.data.sources.catalogue.miniature import (
    collect,
    counts,
    failed,
    ignored,
    labels,
    ok,
    splits,
    write_files,
    write_media,
)
from vatt.data.sources.catalogue.audioset import read_audioset
from vatt.data.sources.catalogue_source import READERS
from vatt.data.sources.official_lists import OfficialLists
from vatt.params import FetchParams, StageError
from vatt.params.sources import AudioSetSource, CatalogueSource, ImageNetSource

ESC50 = "filename,fold,category\n" + "".join(f"{name}.wav,1,dog\n" for name in "abcd")


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of `media/`."""
    (tmp_path / "media").mkdir()
    handler = partial(_Handler, directory=str(tmp_path / "media"))
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def test_every_kind_has_a_reader() -> None:
    assert {*READERS, ImageNetSource} == set(CatalogueSource.__subclasses__())


def test_remote_lists_and_media(tmp_path: Path, server: str) -> None:
    write_files(tmp_path / "media/lists", {"esc50.csv": ESC50})
    write_media(tmp_path / "media", "audio/a.wav", "audio/b.flac")
    collection = collect(
        tmp_path, "esc50", annotations=f"{server}/lists/", media=f"{server}/audio/"
    )
    assert splits(collection) == {"a.wav": "test", "b.flac": "test"}
    assert (tmp_path / "download/mine/a.wav").read_text() == "audio/a.wav"
    assert counts(collection) == {"test": (2, 2, 0)}


def test_a_list_of_addresses(tmp_path: Path, server: str) -> None:
    write_files(tmp_path / "lists", {"esc50.csv": ESC50})
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
    collection = collect(tmp_path, "esc50", media=None, addresses=addresses)
    assert {
        name: row.status for name, row in {r.video_id: r for r in collection.entries}.items()
    } == {
        "a.wav": "ok",
        "b.wav": "ok",
        "c.wav": "failed",
        "d.wav": "ok",
    }
    assert (tmp_path / "download/mine/b.wav").read_text() == "b 1.wav"
    assert (tmp_path / "download/mine/d.wav").read_text() == "local/d.wav"
    assert counts(collection) == {"test": (3, 0, 1)}
    assert "cannot be fetched" in str(failed(collection)["c.wav"])
    assert ignored(collection) == {
        "../../e.wav": "the name leaves the folder",
        "d.wav": "another file is called d.wav too",
        "extra.wav": "is not in the official list",
        "page": "is no media file",
    }
    # The simplest form: an address a line.
    write_files(tmp_path, {"plain.txt": f"\n{server}/x/a.wav\n\n{server}/c.wav\n"})
    plain = collect(tmp_path, "esc50", media=None, addresses=str(tmp_path / "plain.txt"))
    assert sorted(ok(plain)) == ["a.wav", "c.wav"]
    with pytest.raises(StageError, match=r"addresses = 'none\.csv': cannot be read: No such file"):
        collect(tmp_path, "esc50", media=None, addresses="none.csv")


def test_a_file_that_cannot_be_read_is_unusable(tmp_path: Path) -> None:
    write_files(tmp_path / "lists", {"esc50.csv": ESC50})
    write_media(tmp_path / "media", "a.wav", "b.wav")
    (tmp_path / "media/c.wav").symlink_to("nowhere")
    (tmp_path / "media/d.wav").mkdir()
    collection = collect(tmp_path, "esc50")
    assert counts(collection) == {"test": (2, 1, 1)}
    assert failed(collection) == {
        "c.wav": "is not a file, or a link to a file that does not exist",
        "d.wav": "missing: no media file is called d",
    }


def test_names_with_everything_in_them(tmp_path: Path) -> None:
    names = [
        'a\'b "c".wav',
        "emoji \U0001f600 é.wav",
        "two..dots.wav",
        "per%20cent #1?.wav",
        "n\nl.wav",
    ]
    rows = "".join('"{}",1,dog\r\n'.format(name.replace('"', '""')) for name in names)
    write_files(tmp_path / "lists", {"esc50.csv": f"\ufefffilename,fold,category\r\n{rows}"})
    write_media(tmp_path / "media", *names)
    Path(os.fsdecode(os.fsencode(tmp_path / "media") + b"/\xff.wav")).write_text("not UTF-8")
    collection = collect(tmp_path, "esc50")
    assert set(ok(collection)) == set(names[:4])
    # The last name goes over two lines: that is what a quotation mark that is not closed looks like.
    assert failed(collection) == {
        "esc50.csv line 6": "esc50.csv line 6: goes on to line 7: a quotation mark is not closed"
    }
    assert set(ignored(collection)) == {"n\nl.wav", "\\udcff.wav"}


def test_the_same_again_is_the_same_and_media_must_not_hold_the_copy(tmp_path: Path) -> None:
    write_files(tmp_path / "lists", {"esc50.csv": ESC50})
    write_media(tmp_path / "media", "a.wav", "sub/b.wav", "sub/x.wav")
    first = collect(tmp_path, "esc50")
    second = collect(tmp_path, "esc50")
    assert first == second
    # Lists and media may share a folder.
    write_files(tmp_path / "media", {"esc50.csv": ESC50})
    shared = collect(tmp_path, "esc50", annotations=str(tmp_path / "media"))
    assert labels(shared) == labels(first)
    assert ignored(shared)["esc50.csv"] == "is no media file"
    with pytest.raises(StageError, match=r"holds .*download or lies in it"):
        collect(tmp_path, "esc50", media=str(tmp_path))


NUM_ROWS = 200_000


@pytest.fixture(scope="module")
def large_lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AudioSet of 200,000 rows, each with three of 527 labels."""
    folder = tmp_path_factory.mktemp("large")
    classes = "".join(f'{number},/m/{number:05x},"Sound {number}"\n' for number in range(527))
    with (folder / "unbalanced_train_segments.csv").open("w") as file:
        for number in range(NUM_ROWS):
            mids = ",".join(f"/m/{(number * 7 + step * 31) % 527:05x}" for step in range(3))
            file.write(f'id_{number:08d}, {number % 300}.000, {number % 300 + 10}.000, "{mids}"\n')
    (folder / "class_labels_indices.csv").write_text(f"index,mid,display_name\n{classes}")
    return folder


def test_reading_does_not_hold_the_list(large_lists: Path) -> None:
    source = AudioSetSource(kind="audioset", name="x", annotations=str(large_lists), media="x")
    tracemalloc.start()
    items = read_audioset(OfficialLists(str(large_lists), FetchParams()), source)
    count = sum(len(item.annotations) for _, item in zip(range(20_000), items, strict=False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3 * 20_000
    assert peak < 2_000_000


def test_many_rows_take_seconds(tmp_path: Path, large_lists: Path) -> None:
    names = [f"{number % 10}/Yid_{number:08d}.wav" for number in range(0, NUM_ROWS, 400)]
    write_media(tmp_path / "media", *names)
    start_s = time.process_time()
    collection = collect(tmp_path, "audioset", annotations=str(large_lists))
    taken_s = time.process_time() - start_s
    assert counts(collection) == {"train": (len(names), NUM_ROWS - len(names), 0)}
    assert ok(collection)[names[1]].annotations[0].label == f"Sound {400 * 7 % 527}"
    rows = (tmp_path / "download/manifest.jsonl").read_text().count("\n")
    assert rows == NUM_ROWS
    assert json.loads((tmp_path / "download/manifest.jsonl").open().readline())["source"] == "mine"
    assert taken_s < 40
    print(f"{taken_s:.1f} s")
