"""Digests of the code that decides a result: they name caches, runs and versions.

A digest is asked for by folders, so that whoever adds a module need not think of it. A folder that
cannot change a number (vatt/launch, vatt/stages) is simply left out.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

PACKAGE_DIR = Path(__file__).parents[1]


def list_code(*names: str) -> list[Path]:
    """Return the Python files of `names`, folders or files below vatt/, in a fixed order.

    Raises:
        FileNotFoundError: a name is neither, so that a moved folder is noticed at once.
    """
    files: set[Path] = set()
    for name in names:
        path = PACKAGE_DIR / name
        if not path.exists():
            raise FileNotFoundError(f"{path}: no code of this name")
        files |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return sorted(files)


def digest_code(*names: str, beside: Iterable[str] = ()) -> str:
    """Return a digest of the files of `list_code`, and of texts `beside` them, such as versions."""
    digest = hashlib.blake2b(digest_size=16)
    for text in beside:
        digest.update(text.encode())
    for path in list_code(*names):
        digest.update(path.relative_to(PACKAGE_DIR).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
