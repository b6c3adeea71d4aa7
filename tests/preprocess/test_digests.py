import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vatt.preprocess.fragment_maker import DigestMemory, read_digest


def write(path: Path, content: bytes) -> None:
    """Write a new file, as `download` does."""
    path.with_name("new").write_bytes(content)
    path.with_name("new").replace(path)


@pytest.fixture
def memory(tmp_path: Path) -> DigestMemory:
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "a", b"content")
    return DigestMemory(tmp_path / "digests", tmp_path / "files")


@pytest.mark.parametrize(
    "change",
    [lambda path: write(path, b"another"), lambda path: os.utime(path, (1, 1))],
    ids=["content of the same length", "time"],
)
def test_a_digest_is_known_until_the_file_changes(
    memory: DigestMemory, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    assert memory.recall("a") is None
    found = read_digest(tmp_path / "files", "a")
    assert found.digest == hashlib.blake2b(b"content", digest_size=16).hexdigest()
    memory.learn(found)
    assert memory.recall("a") == found.digest
    memory.close()
    memory = DigestMemory(tmp_path / "digests", tmp_path / "files")
    assert memory.recall("a") == found.digest
    change(tmp_path / "files" / "a")
    assert memory.recall("a") is None


def test_a_missing_file_is_an_error(memory: DigestMemory, tmp_path: Path) -> None:
    memory.learn(read_digest(tmp_path / "files", "a"))
    (tmp_path / "files" / "a").unlink()
    with pytest.raises(FileNotFoundError):
        memory.recall("a")


def test_what_left_the_corpus_is_forgotten(memory: DigestMemory, tmp_path: Path) -> None:
    write(tmp_path / "files" / "b", b"b")
    for name in "ab":
        memory.learn(read_digest(tmp_path / "files", name))
    memory.forget_all_but({"b"})
    assert memory.recall("a") is None
    assert memory.recall("b") is not None


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_memory_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "digests").write_bytes(content)
    memory = DigestMemory(tmp_path / "digests", tmp_path)
    assert memory.recall("a") is None
    memory.learn(read_digest(tmp_path, "a"))
    assert memory.recall("a") is not None
