"""What a stage may read of a corpus: what validate let pass, and in tuning no split test."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.index import INDEX_NAME, SHARDS_NAME, digest_index, open_index
from vatt.corpus.tokenizer import find_tokenizer

TUNING_SPLITS = ("train", "validation")


def require_passed(preprocess_dir: Path, verdict_path: Path) -> str:
    """Return the digest of the index of a corpus that validate lets pass.

    Raises:
        StageError: there is no verdict or no corpus, or the verdict is bad or on another corpus.
    """
    try:
        verdict = json.loads(verdict_path.read_text(encoding="utf-8"))
        digest = digest_index(preprocess_dir)
    except (OSError, ValueError) as error:
        raise StageError(
            f"{verdict_path} of {preprocess_dir}: cannot be read: {error}; run `dvc repro validate`"
        ) from error
    if verdict.get("index_digest") != digest:
        raise StageError(
            f"{verdict_path}: is on another corpus than {preprocess_dir}; run `dvc repro validate`"
        )
    if verdict.get("passed") is not True:
        raise StageError(f"{verdict_path}: the corpus did not pass; see data/validate/index.html")
    return digest


def hide_test_split(preprocess_dir: Path, out_dir: Path) -> None:
    """Write a folder with the rows of train and validation, and links to what else is read.

    Tuning sees this corpus, so that it cannot open the split test by mistake. A corpus that cannot
    be read is a StageError.
    """
    index = open_index(preprocess_dir)
    shards: set[str] = set()
    with atomic_path(out_dir) as folder:
        (folder / SHARDS_NAME).mkdir(parents=True)
        with pq.ParquetWriter(folder / INDEX_NAME, index.schema_arrow) as writer:
            for rows in index.iter_batches():
                kept = rows.filter(pc.is_in(rows["split"], pa.array(TUNING_SPLITS)))
                writer.write_batch(kept)
                shards |= set(kept["shard"].to_pylist())
        for name in shards:
            shard = (preprocess_dir / SHARDS_NAME / name).resolve()
            if shard.exists():  # else they are elsewhere: launch.shards_url
                (folder / SHARDS_NAME / name).symlink_to(shard)
        tokenizer = find_tokenizer(preprocess_dir)
        (folder / tokenizer.name).symlink_to(tokenizer.resolve())
