"""What decides a fragment: the file, its row of the manifest, the parameters and the code."""

import hashlib
import json
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

import av

from vatt.data.manifest import ManifestEntry
from vatt.params import AUDIO_RATE_HZ, PreprocessParams

DATA_DIR = Path(__file__).parents[2]
CODE = ("*.py", "preprocessing/**/*.py")
"""Below vatt/data; the values of rows and parameters are in the key."""
NO_PART = {
    *("augment.py", "clips.py", "index.py", "loader.py", "tokenizer.py", "word_tokenizer.py"),
    *("labelled.py", "labelled_loader.py", "splits.py"),
    *("corpus.py", "duplicates.py", "workers.py"),
    *("digests.py", "maker.py", "ray_crew.py", "work.py"),
}
"""Modules there that do not decide what a fragment holds; those not named here are taken to do so."""
LIBRARIES = ("av", "imagehash", "numpy", "onnxruntime", "pillow", "scipy", "silero-vad")
"""Packages that decide what a fragment holds."""
NO_EFFECT = {"segments_per_shard", "vocab_size", "vocabulary", "time_limit_s"}
"""Parameters that play no part in the segments of a file."""


@cache
def digest_code() -> str:
    """Return a digest of the modules and the libraries that make fragments, as they are here."""
    digest = hashlib.blake2b(digest_size=16)
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    for text in (*versions, av.ffmpeg_version_info, str(AUDIO_RATE_HZ)):
        digest.update(text.encode())
    for path in list_code():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def list_code() -> list[Path]:
    """Return the modules whose change makes all fragments anew, in a fixed order."""
    paths = sorted(path for pattern in CODE for path in DATA_DIR.glob(pattern))
    return [path for path in paths if path.name not in NO_PART]


def make_key(
    entry: ManifestEntry, digests: tuple[str, str | None], params: PreprocessParams, code: str
) -> str:
    """Return the key of the fragment of a file: another one whenever its bytes may be others.

    `digests` are those of the file and of its captions, `code` that of the modules.
    """
    parts = [asdict(entry), digests, params.model_dump(mode="json", exclude=NO_EFFECT), code]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
