"""Files as they arrive: archives are unpacked whole, moves are made up for, disks fill up."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.download.made_files import QUICK, zip_of
from tests.download.misbehaving_server import Record, content_of
from vatt.core.errors import StageError
from vatt.download.fetch import STATE_DIR, fetch_all
from vatt.download.ledger import Arrivals
from vatt.download.remote_files import RemoteArchive, RemoteFile

OUT = Path("out")
NAMES = [f"well/{number}" for number in range(20)]
Server = tuple[str, Record]


def tar_gz_of(*names: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 50_000
            archive.addfile(entry, io.BytesIO(content_of(name, 50_000)))
    return made.getvalue()


def test_archives_are_unpacked_whole_and_not_fetched_again(misbehaving: Server) -> None:
    address, record = misbehaving
    good = zip_of({name: content_of(name, 50_000) for name in ("a.mp4", "sub/b.mp4")})
    other = tar_gz_of("c.mp4")
    evil = tar_gz_of("fine.mp4", "../../evil.mp4")
    record.files |= {"/half/x.zip": good, "/well/y.tar.gz": other, "/well/evil.tgz": evil}
    files = [
        RemoteArchive("x", f"{address}/half/x.zip", hashlib.sha256(good).hexdigest()),
        RemoteArchive("y/z", f"{address}/well/y.tar.gz", md5=hashlib.md5(other).hexdigest()),
        RemoteArchive("evil", f"{address}/well/evil.tgz"),
        RemoteArchive("wrong", f"{address}/well/y.tar.gz", md5="0" * 32),
        RemoteArchive("html", f"{address}/well/page.html"),
    ]
    found = fetch_all(files, OUT, QUICK)
    assert (found["x"], found["y/z"]) == (None, None)
    assert found["evil"] == (
        "cannot be fetched: the archive is refused: '../../evil.mp4' leaves the folder"
    )
    assert "its md5 is" in str(found["wrong"])
    assert "is neither zip, tar nor tar.gz" in str(found["html"])
    members = {"x/a.mp4": "a.mp4", "x/sub/b.mp4": "sub/b.mp4", "y/z/c.mp4": "c.mp4"}
    assert {path for path in OUT.rglob("*") if path.is_file()} == {OUT / name for name in members}
    for path, name in members.items():
        assert (OUT / path).read_bytes() == content_of(name, 50_000)
    assert list((STATE_DIR / "partial" / "out").iterdir()) == []
    assert not list(Path.cwd().parent.glob("**/evil.mp4"))
    record.requests.clear()
    again = fetch_all(files[:3], OUT, QUICK)
    assert again == {name: found[name] for name in ("x", "y/z", "evil")}
    assert record.requests == []


def test_a_disk_too_small_to_unpack_keeps_the_archive(
    misbehaving: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StageError("make room")

    address, record = misbehaving
    record.files["/well/x.zip"] = zip_of({"a.mp4": content_of("a.mp4", 50_000)})
    files = [RemoteArchive("x", f"{address}/well/x.zip")]
    with monkeypatch.context() as patch:
        patch.setattr("vatt.download.archives.require_space", refuse)
        with pytest.raises(StageError, match="make room"):
            fetch_all(files, OUT, QUICK)
    assert not Path("out/x").exists()
    assert fetch_all(files, OUT, QUICK) == {"x": None}
    assert record.count("/well/x.zip") == 1
    assert Path("out/x/a.mp4").read_bytes() == content_of("a.mp4", 50_000)


def test_a_changed_file_of_as_many_bytes_survives_a_kill_before_the_move(
    misbehaving: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, record = misbehaving
    record.files["/well/a"] = b"old bytes"
    files = [RemoteFile("a", f"{address}/well/a")]
    assert fetch_all(files, OUT, QUICK) == {"a": None}
    record.files["/well/a"] = b"new bytes"

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Arrivals, "move", die)
        with pytest.raises(RuntimeError, match="killed"):
            fetch_all(files, OUT, QUICK, recheck=True)
    assert (OUT / "a").read_bytes() == b"old bytes"
    record.requests.clear()
    assert fetch_all(files, OUT, QUICK) == {"a": None}
    assert record.requests == []  # what came is not asked for again
    assert (OUT / "a").read_bytes() == b"new bytes"


def test_a_file_that_is_taken_over_is_not_replaced_by_leftovers(misbehaving: Server) -> None:
    OUT.mkdir()
    (OUT / "a").write_bytes(b"from a backup")
    partial_dir = STATE_DIR / "partial" / "out"
    partial_dir.mkdir(parents=True)
    for number in range(5):  # rows of the ledger take numbers of rows that went
        (partial_dir / f"{number}.partial").write_bytes(b"other content")
    files = [RemoteFile("a", f"{misbehaving[0]}/well/a")]
    for _ in range(2):
        assert fetch_all(files, OUT, QUICK) == {"a": None}
    assert (OUT / "a").read_bytes() == b"from a backup"


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB; the current folder lies on it."""
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None or not mount(folder, "size=3m"):
        pytest.skip("needs the right to mount a tmpfs")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_small_disk_fills_up_and_is_made_larger(
    small_disk: Path, misbehaving: Server, monkeypatch: pytest.MonkeyPatch, is_checked: bool
) -> None:
    address, record = misbehaving
    files = [RemoteFile(name, f"{address}/{name}") for name in NAMES]
    params = QUICK.model_copy(update={"connections": 3, "stall_s": 5.0})
    with monkeypatch.context() as patch:
        if not is_checked:  # as when others fill the disk: the system says it first
            patch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**12))
        with pytest.raises(StageError) as caught:
            fetch_all(files, OUT, params)
    assert caught.match("must stay free" if is_checked else "No space left|disk is full")
    assert caught.match("make room|disk is full")
    done = [name for name in NAMES if Path("out", name).exists()]
    assert 0 < len(done) < 10
    for name in done:
        assert Path("out", name).read_bytes() == content_of(f"/{name}")
    record.requests.clear()
    assert mount(small_disk, "remount,size=32m")
    assert fetch_all(files, OUT, params) == dict.fromkeys(NAMES)
    assert not {path for path, _ in record.requests} & {f"/{name}" for name in done}
    for name in NAMES:
        assert Path("out", name).read_bytes() == content_of(f"/{name}")


def test_nothing_is_asked_for_on_a_full_disk(misbehaving: Server) -> None:
    address, record = misbehaving
    files = [RemoteFile(name, f"{address}/{name}") for name in NAMES]
    params = QUICK.model_copy(update={"min_free_gb": 1e9})
    with pytest.raises(StageError, match=r"min_free_gb = 1000000000\.0 must stay free"):
        fetch_all(files, OUT, params)
    assert record.requests == []


def test_the_rest_of_a_file_is_looked_at_before_it_comes(
    misbehaving: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [RemoteFile("a", f"{misbehaving[0]}/well/a")]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 250_000))
    with pytest.raises(StageError, match=r"0\.000 GB are to come"):
        fetch_all(files, OUT, QUICK)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 350_000))
    assert fetch_all(files, OUT, QUICK) == {"a": None}


def test_the_ledger_on_another_disk(misbehaving: Server, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second disk")
    state_dir = other / f"vatt_test_{os.getpid()}"
    try:
        files = [RemoteFile(name, f"{misbehaving[0]}/{name}") for name in NAMES[:3]]
        found = fetch_all(files, tmp_path / "out", QUICK, state_dir)
        assert found == dict.fromkeys(NAMES[:3])
        for name in NAMES[:3]:
            assert (tmp_path / "out" / name).read_bytes() == content_of(f"/{name}")
        assert not list(state_dir.rglob("*.partial"))
    finally:
        shutil.rmtree(state_dir)
