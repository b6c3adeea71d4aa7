"""Archives over the web: fetched with a digest, unpacked whole, never fetched again."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from tests.download.made_files import QUICK, zip_of
from tests.download.misbehaving_server import content_of, serve
from vatt.core.errors import StageError
from vatt.download.fetch import STATE_DIR, fetch_all
from vatt.download.remote_files import RemoteArchive


def tar_gz_of(*names: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 50_000
            archive.addfile(entry, io.BytesIO(content_of(name, 50_000)))
    return made.getvalue()


def test_archives_are_unpacked_whole_and_not_fetched_again() -> None:
    good = zip_of({name: content_of(name, 50_000) for name in ("a.mp4", "sub/b.mp4")})
    other = tar_gz_of("c.mp4")
    evil = tar_gz_of("fine.mp4", "../../evil.mp4")
    with serve() as (address, record):
        record.files |= {"/half/x.zip": good, "/well/y.tar.gz": other, "/well/evil.tgz": evil}
        files = [
            RemoteArchive("x", f"{address}/half/x.zip", hashlib.sha256(good).hexdigest()),
            RemoteArchive("y/z", f"{address}/well/y.tar.gz", md5=hashlib.md5(other).hexdigest()),
            RemoteArchive("evil", f"{address}/well/evil.tgz"),
            RemoteArchive("wrong", f"{address}/well/y.tar.gz", md5="0" * 32),
            RemoteArchive("html", f"{address}/well/page.html"),
        ]
        found = fetch_all(files, Path("out"), QUICK)
        assert (found["x"], found["y/z"]) == (None, None)
        assert found["evil"] == (
            "cannot be fetched: the archive is refused: '../../evil.mp4' leaves the folder"
        )
        assert "its md5 is" in str(found["wrong"])
        assert "is neither zip, tar nor tar.gz" in str(found["html"])
        made = {path.as_posix() for path in Path("out").rglob("*") if path.is_file()}
        assert made == {"out/x/a.mp4", "out/x/sub/b.mp4", "out/y/z/c.mp4"}
        for path in made:
            name = path.removeprefix("out/x/").removeprefix("out/y/z/")
            assert Path(path).read_bytes() == content_of(name, 50_000)
        assert list((STATE_DIR / "partial" / "out").iterdir()) == []
        assert not list(Path.cwd().parent.glob("**/evil.mp4"))
        record.requests.clear()
        assert fetch_all(files[:3], Path("out"), QUICK) == {
            name: found[name] for name in ("x", "y/z", "evil")
        }
        assert record.requests == []


def test_a_disk_too_small_to_unpack_keeps_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StageError("make room")

    content = zip_of({"a.mp4": content_of("a.mp4", 50_000)})
    with serve() as (address, record):
        record.files["/well/x.zip"] = content
        files = [RemoteArchive("x", f"{address}/well/x.zip")]
        with monkeypatch.context() as patch:
            patch.setattr("vatt.download.archives.require_space", refuse)
            with pytest.raises(StageError, match="make room"):
                fetch_all(files, Path("out"), QUICK)
        assert not Path("out/x").exists()
        assert fetch_all(files, Path("out"), QUICK) == {"x": None}
        assert record.count("/well/x.zip") == 1
    assert Path("out/x/a.mp4").read_bytes() == content_of("a.mp4", 50_000)
