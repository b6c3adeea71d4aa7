"""Archives of strangers: unpacked whole, or refused by name with nothing left behind."""

import gzip
import io
import random
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.download.made_files import read_tree, zip_of
from vatt.core.errors import StageError
from vatt.download import archives
from vatt.download.archives import ArchiveError, unpack

FILES = {"a.mp4": b"a" * 1000, "sub/é b.wav": bytes(range(256)) * 20, "sub/empty": b""}


METHODS = {"zip": zipfile.ZIP_DEFLATED, "bzip2.zip": zipfile.ZIP_BZIP2}


def write_archive(path: Path, kind: str, files: Mapping[str, bytes], prefix: str = "./") -> None:
    if kind.endswith("zip"):
        with zipfile.ZipFile(path, "w", METHODS.get(kind, zipfile.ZIP_STORED)) as zipped:
            zipped.writestr("folder/", b"")
            for name, content in files.items():
                zipped.writestr(name, content)
        return
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tarred:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{prefix}{name}")
            entry.size = len(content)
            tarred.addfile(entry, io.BytesIO(content))


def check_refused(archive: Path, message: str) -> None:
    """Check that an archive is refused with a message, and that nothing of it is left."""
    before = read_tree(archive.parent).keys()
    with pytest.raises(ArchiveError, match=message):
        unpack(archive, archive.parent / "deep" / "er" / "out", 0.0)
    assert read_tree(archive.parent).keys() == before
    assert not list(archive.parent.rglob("out*"))


@pytest.mark.parametrize("kind", ["zip", "stored.zip", "bzip2.zip", "tar", "tar.gz"])
def test_members_arrive_equal(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"x.{kind}"
    write_archive(archive, kind, FILES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_bytes(b"goes")
    unpack(archive, tmp_path / "out", 0.0)
    assert read_tree(tmp_path / "out") == FILES


def test_a_tar_that_holds_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = zip_of({"x": b"x"})
    write_archive(tmp_path / "outer.tar", "tar", {"inner.zip": inner})
    unpack(tmp_path / "outer.tar", tmp_path / "out", 0.0)
    assert read_tree(tmp_path / "out") == {"inner.zip": inner}


BAD_NAMES = {
    **dict.fromkeys(("../x", "a/../../x", "/etc/x", ".."), "leaves the folder"),
    **dict.fromkeys(("a\\..\\x", "a\nb"), "has a name with a backslash or control characters"),
    "n" * 256: "File name too long",
}


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_leave_the_folder_refuse_all(tmp_path: Path, name: str, kind: str) -> None:
    files = {"good": b"x", name: b"evil", "good too": b"x"}
    archive = tmp_path / "archive"
    write_archive(archive, kind, files, prefix="")
    check_refused(archive, f"{re.escape(ascii(name))}:? {BAD_NAMES[name]}")


TYPES = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


@pytest.mark.parametrize("kind", [*TYPES, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_devices_and_pipes(tmp_path: Path, kind: bytes | int) -> None:
    archive = tmp_path / "x"
    if isinstance(kind, bytes):
        with tarfile.open(archive, "w") as tarred:
            entry = tarfile.TarInfo("bad")
            entry.type, entry.linkname = kind, "a.mp4"
            tarred.addfile(entry)
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            member = zipfile.ZipInfo("bad")
            member.external_attr = (kind | 0o777) << 16
            zipped.writestr(member, "/etc/hostname")
    check_refused(archive, r"'bad' is a link, a device or a pipe")


def test_modes_of_an_archive_are_not_taken_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        entry = tarfile.TarInfo("tool")
        entry.mode, entry.uid = 0o6777, 1234
        archive.addfile(entry)
    unpack(tmp_path / "x.tar", tmp_path / "out", 0.0)
    made = (tmp_path / "out" / "tool").stat()
    assert made.st_mode & 0o7111 == 0
    assert made.st_uid == tmp_path.stat().st_uid


@pytest.mark.parametrize(
    "names", [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["./a", "a"], ["a/b", "a//b"]]
)
def test_names_that_collide(tmp_path: Path, names: list[str]) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    check_refused(tmp_path / "x.tar", r"is given twice|is in a folder that is a file")


def make_bomb_zip(path: Path) -> None:
    write_archive(path, "zip", {"zeros": bytes(120_000_000)})


def make_bomb_tar(path: Path) -> None:
    """Say that a member has a terabyte, and hold little of it."""
    entry = tarfile.TarInfo("zeros")
    entry.size = 10**12
    path.write_bytes(gzip.compress(entry.tobuf() + bytes(100_000)))


def make_overlapping_zip(path: Path) -> None:
    """Name one compressed stream many times."""
    write_archive(path, "zip", {"kernel": bytes(1_000_000)})
    content = path.read_bytes()
    directory_at = content.rindex(b"PK\x01\x02")  # of the last file
    end_at = content.rindex(b"PK\x05\x06")
    entry = content[directory_at:end_at]
    names = [f"kerne{number:04}".encode() for number in range(500)]
    copies = b"".join(
        entry[:28] + struct.pack("<H", len(name)) + entry[30:46] + name for name in names
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 500, 500, len(copies), directory_at, 0)
    path.write_bytes(content[:directory_at] + copies + end)


def make_header_bomb(path: Path) -> None:
    """Say that the long name of a member has a gigabyte: tarfile would read it at once."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2**30
    path.write_bytes(gzip.compress(entry.tobuf() + bytes(1_000_000)))


@pytest.mark.parametrize(
    "make", [make_bomb_zip, make_bomb_tar, make_overlapping_zip, make_header_bomb]
)
def test_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "bomb")
    assert (tmp_path / "bomb").stat().st_size < 1_000_000
    check_refused(tmp_path / "bomb", r"bytes, unpacked from|a header says that it has")


LIES = {
    "its true size": (bytes(1000), struct.pack("<LL", 1000, 1000), struct.pack("<LL", 1000, 10)),
    "its bytes": (b"hello hello", b"hello hello", b"hallo hallo"),
}
"""The member, and what is written in place of what in the archive."""


@pytest.mark.parametrize("lie", LIES)
def test_a_member_that_is_not_as_it_says(tmp_path: Path, lie: str) -> None:
    member, true, false = LIES[lie]
    write_archive(tmp_path / "x.zip", "stored.zip", {"liar": member})
    content = (tmp_path / "x.zip").read_bytes()
    assert true in content
    (tmp_path / "x.zip").write_bytes(content.replace(true, false))
    size = "does not have the size that it says|Bad CRC"
    check_refused(tmp_path / "x.zip", "Bad CRC-32" if lie == "its bytes" else size)


def test_encrypted_members_and_other_methods(tmp_path: Path) -> None:
    write_archive(tmp_path / "x.zip", "zip", {"secret": b"x"})
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    check_refused(tmp_path / "x.zip", "'secret' is encrypted")
    with zipfile.ZipFile(tmp_path / "y.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("odd", b"x")
    check_refused(tmp_path / "y.zip", "'odd' is compressed by method 14")


@pytest.mark.parametrize("content", [b"", b"<html>not here</html>", b"Rar!\x1a\x07"])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    check_refused(tmp_path / "x", r"is neither zip, tar nor tar\.gz")


def test_an_empty_tar(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(10_000))
    unpack(tmp_path / "x", tmp_path / "out", 0.0)
    assert read_tree(tmp_path / "out") == {}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_damaged_archives_unpack_whole_or_not_at_all(tmp_path: Path, kind: str, seed: int) -> None:
    generator = random.Random(f"{kind} {seed}")
    files = {f"{number}.wav": generator.randbytes(3000) for number in range(4)}
    archive = tmp_path / "x"
    write_archive(archive, kind, files)
    whole = archive.read_bytes()
    refused = 0
    for number in range(60):
        content = bytearray(whole)
        for _ in range(generator.randint(1, 8)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        archive.write_bytes(content[: generator.choice([len(content), len(content) // 2])])
        out = tmp_path / f"out{number}"
        try:
            unpack(archive, out, 0.0)
        except ArchiveError:
            refused += 1
            assert not out.exists()
        else:
            assert len(read_tree(out)) == len(files)
        assert not list(tmp_path.glob("out*.*"))
    assert refused > 10


def test_an_archive_too_large_for_the_disk(tmp_path: Path) -> None:
    write_archive(tmp_path / "x.tar", "tar.gz", FILES)
    with pytest.raises(StageError, match="must stay free"):
        unpack(tmp_path / "x.tar", tmp_path / "out", 1e9)
    assert not (tmp_path / "out").exists()


def test_more_members_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    write_archive(tmp_path / "x.tar", "tar.gz", FILES)
    check_refused(tmp_path / "x.tar", "sub/empty")
