"""Stage `preprocess`: cut, transcode and tokenise into shards with an index."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vatt.atomic import atomic_path
from vatt.data.preprocessing.corpus import write_corpus
from vatt.params import PreprocessParams, StageError

DOWNLOAD_DIR = Path("data/download")
OUT_DIR = Path("data/preprocess")


def main(preprocess: PreprocessParams) -> Mapping[str, Any]:
    """Write data/preprocess from the files of data/download, on all cores; count what became of them.

    Raises:
        StageError: there is no manifest, it cannot be used, or the disk is full.
    """
    num_workers = len(os.sched_getaffinity(0))
    try:
        with atomic_path(OUT_DIR) as partial_dir:
            partial_dir.mkdir()
            counts = write_corpus(DOWNLOAD_DIR, partial_dir, preprocess, num_workers)
    except OSError as error:
        raise StageError(f"{error.filename or OUT_DIR}: {error.strerror or error}") from error
    print("preprocess: " + ", ".join(f"{value} {name}" for name, value in counts.items()))
    return counts
