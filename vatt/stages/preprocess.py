"""Stage `preprocess`: cut, transcode and tokenise into shards with an index."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.core.signals import sigterm_raises
from vatt.params import LaunchParams, PreprocessParams
from vatt.preprocess.corpus import write_corpus

DOWNLOAD_DIR = Path("data/download")
OUT_DIR = Path("data/preprocess")
STORE_DIR = Path(".cache/preprocess")


def main(preprocess: PreprocessParams, launch: LaunchParams) -> Mapping[str, Any]:
    """Write data/preprocess from the files of data/download; count what became of them.

    All cores work, or the Ray cluster at `launch.ray_address`. Files that were done before, with
    the same content, captions, parameters and code, are not decoded again: see .cache/preprocess.

    Raises:
        StageError: there is no manifest, it cannot be used, or the disk is full.
    """
    num_workers = len(os.sched_getaffinity(0))
    try:
        with sigterm_raises(), atomic_path(OUT_DIR) as partial_dir:
            partial_dir.mkdir()
            counts = write_corpus(
                DOWNLOAD_DIR, partial_dir, preprocess, num_workers, STORE_DIR, launch.ray_address
            )
    except OSError as error:
        raise StageError(f"{error.filename or OUT_DIR}: {error.strerror or error}") from error
    print("preprocess: " + ", ".join(f"{value} {name}" for name, value in counts.items()))
    return counts
