"""The store of fragments, each kept under a digest of all that decides it (`make_key`).

An entry is a file `fragments/<first two digits of the key>/<key>`: the members of the segments as
they stand in a shard, the outcome as JSON, the length of the JSON (8 bytes), and a BLAKE2b of the
key and everything before (16 bytes).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import av

from vatt.core.code import digest_code
from vatt.corpus.index import Segment
from vatt.corpus.manifest import ManifestEntry
from vatt.params import AUDIO_RATE_HZ, PreprocessParams
from vatt.preprocess.fragments import Outcome

CODE = (
    *("media", "corpus/index.py", "corpus/manifest.py", "corpus/shards.py", "preprocess/cuts.py"),
    *("preprocess/fragments.py", "preprocess/hashes.py", "preprocess/listening.py"),
    "preprocess/measures.py",
)
"""The code that decides the bytes of a fragment, beside its row and the parameters."""
LIBRARIES = ("av", "imagehash", "numpy", "onnxruntime", "pillow", "scipy", "silero-vad")
"""The packages that decide what a fragment holds."""
NO_EFFECT = {"segments_per_shard", "vocab_size", "vocabulary", "time_limit_s"}
"""Parameters that play no part in the segments of a file."""
LENGTH_BYTES = 8
DIGEST_BYTES = 16
CHUNK_BYTES = 1 << 20


@cache
def digest_fragment_code() -> str:
    """Return a digest of the modules and the libraries that make fragments, as they are here."""
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    return digest_code(*CODE, beside=(*versions, av.ffmpeg_version_info, str(AUDIO_RATE_HZ)))


def make_key(
    entry: ManifestEntry, digests: tuple[str, str | None], params: PreprocessParams, code: str
) -> str:
    """Return the key of the fragment of a file: another one whenever its bytes may be others.

    `digests` are those of the file and of its captions, `code` that of the modules.
    """
    parts = [asdict(entry), digests, params.model_dump(mode="json", exclude=NO_EFFECT), code]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


class FragmentStore:
    """Entries appear whole or not at all; one that is damaged is taken for absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.partial_dir = folder / "partial"
        """Where entries are being made."""

    def path_of(self, key: str) -> Path:
        """Return where the entry of a key is, or would be."""
        return self.folder / "fragments" / key[:2] / key

    def add(self, key: str, fragment_path: Path, outcome: Outcome) -> None:
        """Move a finished fragment to its entry; the file of one without segments may be missing.

        Raises:
            OSError: the disk is full or broken.
        """
        rows = [vars(segment) for segment in outcome.segments]
        # The numbers that were measured are numpy's.
        content = json.dumps(
            outcome._asdict() | {"segments": rows}, default=lambda number: number.item()
        ).encode()
        with fragment_path.open("ab" if outcome.segments else "wb") as file:
            file.write(content + len(content).to_bytes(LENGTH_BYTES))
        with fragment_path.open("r+b") as file:
            digest = _digest(key, file, fragment_path.stat().st_size)
            file.seek(0, os.SEEK_END)
            file.write(digest)
        path = self.path_of(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        fragment_path.replace(path)

    def read(self, key: str) -> Outcome | None:
        """Return the outcome of an entry, None if there is none or it is damaged.

        The offsets of its segments are those in the file of the entry.
        """
        try:
            with self.path_of(key).open("rb") as file:
                length = os.fstat(file.fileno()).st_size - DIGEST_BYTES
                if length < LENGTH_BYTES or _digest(key, file, length) != file.read(DIGEST_BYTES):
                    return None
                file.seek(length - LENGTH_BYTES)
                json_bytes = int.from_bytes(file.read(LENGTH_BYTES))
                file.seek(length - LENGTH_BYTES - json_bytes)
                content: dict[str, Any] = json.loads(file.read(json_bytes))
        except FileNotFoundError:
            return None
        return Outcome(**content | {"segments": [Segment(**row) for row in content["segments"]]})

    def remove_all_but(self, keys: AbstractSet[str]) -> None:
        """Remove all entries of other keys, and what was left of entries that were not finished."""
        for path in self.folder.glob("fragments/??/*"):
            if path.name not in keys:
                path.unlink()
        self.remove_partial()

    def remove_partial(self) -> None:
        """Remove what killed processes left."""
        shutil.rmtree(self.partial_dir, ignore_errors=True)


def _digest(key: str, file: BinaryIO, length: int) -> bytes:
    """Return the BLAKE2b of a key and the first `length` bytes of a file, which is left there."""
    digest = hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES)
    while length and (chunk := file.read(min(length, CHUNK_BYTES))):
        digest.update(chunk)
        length -= len(chunk)
    return digest.digest()
