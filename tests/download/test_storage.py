"""Listing and fetching, from a disk, from memory and from web servers that misbehave."""

import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import fsspec
import pytest

from tests.download.made_files import QuietHandler, read_tree, serve_with, write_files
from tests.made_media import ODD_NAMES
from vatt.core.errors import StageError
from vatt.download.remote_files import HIDDEN
from vatt.download.storage import Storage, _modified_s, remove_others
from vatt.params import FetchParams


def fetch(source: Storage, folder: Path) -> dict[str, str | None]:
    return source.fetch_all(source.list_files(), folder)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A folder of files with odd names, at several depths."""
    folder = tmp_path / "a folder"
    for number, name in enumerate([*ODD_NAMES, "sub/é 1/x.mp4", "sub/y.vtt", "empty.wav"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * number * 1000)
    (folder / "empty.wav").write_bytes(b"")
    return folder


def test_local_and_web_copies_are_equal(original: Path, tmp_path: Path) -> None:
    with serve_with(partial(QuietHandler, directory=str(original.parent))) as address:
        for number, url in enumerate((str(original), f"{address}/a%20folder/")):
            problems = fetch(Storage(url), tmp_path / f"copy {number}")
            assert set(problems.values()) == {None}
            assert read_tree(tmp_path / f"copy {number}") == read_tree(original)


def test_copy_from_an_object_store_is_equal(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/corpus/a.mp4": b"1", "/corpus/sub/b.mp4": b"2"})
    copy = tmp_path / "copy"
    problems = fetch(Storage("memory://corpus"), copy)
    assert problems == {"a.mp4": None, "sub/b.mp4": None}
    assert read_tree(copy) == {"a.mp4": b"1", "sub/b.mp4": b"2"}
    before = (copy / "a.mp4").stat().st_ino
    memory.pipe({"/corpus/sub/b.mp4": b"3"})  # as many bytes, newer
    assert fetch(Storage("memory://corpus"), copy) == problems
    memory.rm("/corpus", recursive=True)
    assert (copy / "a.mp4").stat().st_ino == before
    assert read_tree(copy) == {"a.mp4": b"1", "sub/b.mp4": b"3"}


@pytest.mark.parametrize(
    "info",
    [
        {"mtime": 1e9, "created": 2e9},  # disks
        {"LastModified": datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)},  # S3
        {"last_modified": datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)},  # Azure
        {"updated": "2001-09-09T01:46:40Z"},  # Google
        {"Last-Modified": "Sun, 09 Sep 2001 01:46:40 GMT"},
    ],
)
def test_every_kind_of_storage_tells_the_time_in_its_way(info: dict[str, object]) -> None:
    assert _modified_s(info) == 1e9


def test_only_what_changed_is_fetched_again(original: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    fetch(Storage(str(original)), copy)
    before = {path: path.stat().st_ino for path in copy.rglob("*.mp4")}
    changed = original / "sub" / "é 1" / "x.mp4"
    changed.write_bytes(changed.read_bytes()[::-1])  # same size, newer
    (copy / ODD_NAMES[1]).write_bytes(b"broken off")
    fetch(Storage(str(original)), copy)
    again = {
        path.relative_to(copy) for path, inode in before.items() if path.stat().st_ino != inode
    }
    assert again == {Path("sub/é 1/x.mp4"), Path(ODD_NAMES[1])}
    assert read_tree(copy) == read_tree(original)


def test_links_loops_pipes_and_hidden_files(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_files(tmp_path, {"elsewhere/far.mp4": b"far"})
    write_files(folder, {"a.mp4": b"a", ".git/x.mp4": b"", "._a.mp4": b""})
    (folder / "linked.mp4").symlink_to("a.mp4")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    os.mkfifo(folder / "pipe.mp4")
    no_file = "is not a file, or a link to a file that does not exist"
    assert fetch(Storage(str(folder)), tmp_path / "copy") == {
        "._a.mp4": HIDDEN,
        ".git/": HIDDEN,
        "a.mp4": None,
        "dangling.mp4": no_file,
        "linked.mp4": None,
        "linked/far.mp4": None,
        "pipe.mp4": no_file,
    }
    copied = {"a.mp4": b"a", "linked.mp4": b"a", "linked/far.mp4": b"far"}
    assert read_tree(tmp_path / "copy") == copied


class HostileHandler(QuietHandler):
    """A listing that leads out of the folder, and files that fail in several ways."""

    tries: dict[str, int]

    def do_GET(self) -> None:
        self.tries[self.path] = self.tries.get(self.path, 0) + 1
        if self.path in ("/clips", "/clips/"):
            links = ["../secret.mp4", "..%2F..%2Fetc%2Fpasswd.mp4", "/other/x.mp4", "./", "../up/"]
            links += ["?C=N;O=D", "good.mp4", "good%2Emp4", "short.mp4", "flaky.mp4", "none.mp4"]
            links += ["forbidden.mp4", "good.mp4/"]
            page = "".join(f'<a href="{link}">{link}</a>\n' for link in links).encode()
            self.answer(page, len(page), "text/html")
        elif self.path == "/clips/good.mp4/":
            self.answer(b'<a href="x.mp4">x</a>', 21, "text/html")
        elif self.path == "/clips/short.mp4":
            self.answer(b"1234", 10)
        elif self.path == "/clips/flaky.mp4":
            self.answer(b"1234567890"[: 5 * self.tries[self.path]], 10)
        elif self.path == "/clips/forbidden.mp4":
            self.send_error(403)
        elif self.path == "/clips/none.mp4":
            self.send_error(404)
        else:
            self.answer(b"good", 4)

    def do_HEAD(self) -> None:
        size = {"/clips/good.mp4": 4}.get(self.path, 10)
        self.answer(b"", size)

    def answer(self, content: bytes, size: int, kind: str = "video/mp4") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(content)


def test_hostile_web_server(tmp_path: Path) -> None:
    HostileHandler.tries = {}
    with serve_with(HostileHandler) as address:
        source = Storage(f"{address}/clips", FetchParams(tries=3, backoff_s=0.01))
        listed = source.list_files()
        files = {file.name: file for file in listed}.values()
        problems = source.fetch_all(files, tmp_path / "out" / "copy")
    assert len(listed) - len(files) == 1  # good.mp4 is linked twice
    leaves, failed = "the name leaves the folder", "cannot be fetched: "
    expected = {
        "../secret.mp4": leaves,
        "../../etc/passwd.mp4": leaves,
        "good.mp4": None,
        "good.mp4/x.mp4": "a file is called good.mp4 too",
        "flaky.mp4": None,
        "short.mp4": f"{failed}4 of 10 bytes arrived",
        "forbidden.mp4": f"{failed}the server answers 403 Forbidden",
        "none.mp4": f"{failed}the server answers 404 Not Found",
    }
    assert {name: problems[name] for name in expected} == expected
    assert HostileHandler.tries["/clips/flaky.mp4"] == 2
    assert HostileHandler.tries["/clips/forbidden.mp4"] == 3
    whole = {"copy/good.mp4": b"good", "copy/flaky.mp4": b"1234567890"}
    assert read_tree(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no/such/folder", "is not an existing folder"),
        (__file__, "is not an existing folder"),
        ("nonsense://bucket/x", "Protocol not known: nonsense"),
        ("http://127.0.0.1:9/x/", "cannot be listed: "),
    ],
)
def test_source_that_cannot_be_opened(url: str, message: str) -> None:
    with pytest.raises(StageError) as caught:
        Storage(url).list_files()
    assert f"url = {url!r}: {message}" in str(caught.value)


def test_missing_web_folder() -> None:
    with (
        serve_with(partial(QuietHandler, directory=str(Path(__file__).parent))) as address,
        pytest.raises(StageError, match="cannot be listed"),
    ):
        Storage(f"{address}/none/").list_files()


def test_full_disk_stops_the_stage(original: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    source = Storage(str(original))

    def fill_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    source._files.get_file = fill_disk
    with pytest.raises(StageError, match="No space left on device"):
        fetch(source, tmp_path / "copy")
    del source._files.get_file


def test_remove_others(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys(("keep/a", "keep/b.partial", "drop/deep/c", "d"), ""))
    (tmp_path / "link").symlink_to(tmp_path / "keep")
    remove_others(tmp_path, {tmp_path / "keep" / "a", tmp_path / "d"})
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["d", "keep", "keep/a"]
