"""Files and folders that appear whole or not at all, whenever the process is killed; locks."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

MAX_NAME_BYTES = 255
"""What file systems take for a name; letters outside ASCII have two to four bytes."""


def extend_name(name: str, ending: str) -> str:
    """Return a name with an ending; a digest stands for the name where it would get too long."""
    whole = f"{name}{ending}"
    if len(os.fsencode(whole)) <= MAX_NAME_BYTES:
        return whole
    return hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest() + ending


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path to write a file or a folder at; it takes the place of `path` at the end.

    What an earlier, killed attempt left is removed. On an exception nothing appears at `path`.
    A folder that stands at `path` is replaced whole: for a moment there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    endings = (".partial", ".replaced")
    partial, replaced = (path.with_name(extend_name(path.name, ending)) for ending in endings)
    _remove(partial, replaced)
    try:
        yield partial
        for file in partial.rglob("*") if partial.is_dir() else [partial]:
            if file.is_file():  # its bytes are to be on the disk before it gets its name
                with file.open("rb") as written:
                    os.fsync(written)
        if path.is_dir():
            path.replace(replaced)  # deleting it in place could leave a half of it
        partial.replace(path)
    finally:
        _remove(partial, replaced)


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def hold_lock(path: Path, *, waits: bool = True) -> TextIOWrapper:
    """Return the open file that holds a lock until it is closed, as `with` does at its end.

    Raises:
        BlockingIOError: another process holds it, and this one does not wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")  # what the holder wrote stays
    try:
        fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON with sorted keys; NaN is a ValueError."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic_path(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def digest_file(path: Path) -> str:
    """Return the BLAKE2b of a file, 16 bytes in hexadecimal; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
