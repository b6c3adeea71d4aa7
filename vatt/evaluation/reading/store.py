"""Features that are kept between runs: what a network made of a split, by network, data and code."""

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vatt.atomic import atomic_path

PACKAGE_DIR = Path(__file__).parents[2]
CODE = ("data/*.py", "data/loading/*.py", "models/**/*.py", "evaluation/reading/*.py", "batch.py")
"""Below vatt/: what decides features besides weights and data. Not how data came about: that is in
the digest of the index."""
LIBRARIES = ("torch", "av")
SUFFIX = ".safetensors"


class FeatureStore:
    """A folder of features; entries that a run neither read nor wrote can be removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()

    def read(self, name: str) -> dict[str, np.ndarray] | None:
        """Return what is stored under a name; None if there is nothing, or it is damaged."""
        self._used.add(name)
        try:
            arrays: dict[str, np.ndarray] = load_file(self._folder / (name + SUFFIX))
        except (OSError, SafetensorError):
            return None
        return arrays

    def write(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Store arrays under a name, whole or not at all."""
        self._used.add(name)
        contiguous = {key: np.ascontiguousarray(values) for key, values in arrays.items()}
        with atomic_path(self._folder / (name + SUFFIX)) as partial:
            save_file(contiguous, partial)

    def remove_others(self) -> None:
        """Remove what was not used since this object was made."""
        for path in self._folder.glob(f"*{SUFFIX}*"):
            if path.name.partition(".")[0] not in self._used:
                path.unlink(missing_ok=True)


def name_features(*parts: str) -> str:
    """Return the name of features that these parts decide, together with the code."""
    content = json.dumps([*parts, _digest_code()])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@cache
def _digest_code() -> str:
    versions = [version(name) for name in LIBRARIES]
    digest = hashlib.blake2b(json.dumps(versions).encode(), digest_size=16)
    for path in sorted(path for pattern in CODE for path in PACKAGE_DIR.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()
