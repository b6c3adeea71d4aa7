"""What networks made of clips, kept between runs by network, data and code."""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vatt.core.code import digest_code
from vatt.core.files import atomic_path
from vatt.evaluate.networks import Arrays

CODE = (
    *("core/batch.py", "corpus", "loading", "media", "model"),
    *("evaluate/annotated.py", "evaluate/features.py", "evaluate/finetuned.py"),
    *("evaluate/networks.py", "weights/export.py", "weights/inference.py"),
)
"""The code below vatt/ that decides features. How data came about is in the digest of the index."""
SUFFIX = ".safetensors"
SPARED_S = 86_400.0


class FeatureStore:
    """A folder of features; entries that a run neither read nor wrote can be removed.

    What is made part by part stands under the name of the whole, a dot, and that of the part.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()

    def has(self, name: str) -> bool:
        """Return whether something is stored under a name."""
        return self._locate(name).is_file()

    def read(self, name: str) -> Arrays | None:
        """Return what is stored under a name; None if there is nothing. What is damaged goes."""
        self._used.add(name)
        try:
            return dict(load_file(self._locate(name)))
        except FileNotFoundError:
            return None
        except SafetensorError:
            self._locate(name).unlink(missing_ok=True)
            return None

    def write(self, name: str, arrays: Arrays) -> None:
        """Store arrays under a name, whole or not at all."""
        self._used.add(name)
        contiguous = {key: np.ascontiguousarray(values) for key, values in arrays.items()}
        with atomic_path(self._locate(name)) as partial:
            save_file(contiguous, partial)

    def join(self, name: str, parts: Sequence[str]) -> Arrays | None:
        """Store and return the parts of a whole one behind the other, and remove all of its parts.

        Return None if one is missing or damaged; then the others stay.
        """
        found = (self.read(f"{name}.{part}") for part in parts)
        pieces = [piece for piece in found if piece is not None]
        if len(pieces) < len(parts):
            return None
        whole = join_arrays(pieces)
        self.write(name, whole)
        for path in self._folder.glob(f"{name}.*{SUFFIX}"):
            path.unlink()
        return whole

    def remove_others(self) -> None:
        """Remove what was not used since this object was made.

        What is not whole stays for a day: another evaluation may be making it.
        """
        for path in self._folder.glob(f"*{SUFFIX}*"):
            name = path.name.partition(".")[0]
            with suppress(FileNotFoundError):  # that evaluation joined its parts
                age_s = time.time() - path.stat().st_mtime
                if name not in self._used and (path == self._locate(name) or age_s > SPARED_S):
                    path.unlink()

    def _locate(self, name: str) -> Path:
        return self._folder / (name + SUFFIX)


def join_arrays(pieces: Sequence[Arrays]) -> Arrays:
    """Return what pieces hold under each name, one behind the other."""
    keys = dict.fromkeys(key for piece in pieces for key in piece)
    return {key: np.concatenate([own[key] for own in pieces if key in own]) for key in keys}


def name_features(*parts: str) -> str:
    """Return the name of features that these parts decide, together with the code."""
    content = json.dumps([*parts, _digest_code()])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@cache
def _digest_code() -> str:
    return digest_code(*CODE, beside=map(version, ("torch", "av")))
