"""The corpus that tuning sees: it lacks the split test, which so cannot be opened by mistake."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vatt.core.files import atomic_path
from vatt.corpus.index import INDEX_NAME, SHARDS_NAME, open_index
from vatt.corpus.tokenizer import find_tokenizer

SPLITS = ("train", "validation")


def hide_test_split(preprocess_dir: Path, out_dir: Path) -> None:
    """Write a folder with the rows of train and validation, and links to what else is read.

    Raises:
        StageError: the corpus cannot be read.
    """
    index = open_index(preprocess_dir)
    shards: set[str] = set()
    with atomic_path(out_dir) as folder:
        (folder / SHARDS_NAME).mkdir(parents=True)
        with pq.ParquetWriter(folder / INDEX_NAME, index.schema_arrow) as writer:
            for rows in index.iter_batches():
                kept = rows.filter(pc.is_in(rows["split"], pa.array(SPLITS)))
                writer.write_batch(kept)
                shards |= set(kept["shard"].to_pylist())
        for name in shards:
            shard = (preprocess_dir / SHARDS_NAME / name).resolve()
            if shard.exists():  # else they are elsewhere: launch.shards_url
                (folder / SHARDS_NAME / name).symlink_to(shard)
        tokenizer = find_tokenizer(preprocess_dir)
        (folder / tokenizer.name).symlink_to(tokenizer.resolve())
