"""The preprocessed corpus: all files of the manifest as shards, index, tokenizer and quarantine."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vatt.core.pool import LocalPool, Pool
from vatt.corpus.annotated import list_parts, write_parts
from vatt.corpus.index import INDEX_NAME, QUARANTINE_NAME, SHARDS_NAME, IndexWriter
from vatt.corpus.manifest import ManifestEntry, read_manifest
from vatt.corpus.samples import write_samples
from vatt.corpus.shards import ShardWriter
from vatt.corpus.tokenizer import (
    MAX_SENTENCES,
    TOKENIZER_NAME,
    VOCABULARY_NAME,
    WordTokenizer,
    train_tokenizer,
)
from vatt.params import PreprocessParams
from vatt.preprocess.duplicates import write_duplicates
from vatt.preprocess.fragment_maker import FragmentMaker
from vatt.preprocess.fragments import add_labels, key_of
from vatt.preprocess.ray_pool import RayPool
from vatt.preprocess.recognition import open_recogniser
from vatt.preprocess.transcripts import TRANSCRIPTS_NAME, append_transcript, count_lines


def write_corpus(
    download_dir: Path,
    out_dir: Path,
    params: PreprocessParams,
    num_workers: int,
    store_dir: Path | None = None,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Preprocess every file of the manifest into the empty folder `out_dir`; returns metrics.

    Every row of the manifest becomes segments in the index or a row of the quarantine list. The
    bytes depend neither on `num_workers` processes of this machine, nor on the Ray cluster at
    `ray_address` in their place, nor on what `store_dir` holds of earlier runs; without one nothing
    is kept for later ones.

    Raises:
        StageError: the manifest, `params.vocabulary` or the cluster cannot be used.
        OSError: the disk is full or broken.
    """
    # In the order of the keys, which are hashes: that shuffles the shards, once for all.
    entries = sorted(read_manifest(download_dir), key=key_of)
    counts: Counter[str] = Counter(inputs=len(entries))
    if params.vocabulary is not None:  # first, because what follows may take days
        counts["vocab_size"] = WordTokenizer(params.vocabulary).vocab_size
        shutil.copyfile(params.vocabulary, out_dir / VOCABULARY_NAME)
    shards = ShardWriter(out_dir / SHARDS_NAME, params.segments_per_shard)
    kept_dir = store_dir or out_dir / "store"
    open_pool: Callable[[Callable[[Any], Any]], Pool] = partial(LocalPool, size=num_workers)
    if ray_address is not None:
        open_pool = partial(RayPool, address=ray_address)
    recogniser = None
    if any(entry.transcribe for entry in entries):
        recogniser = open_recogniser(params.asr, kept_dir)
    write_parts(out_dir, (part for entry in entries for part in list_parts(entry)))
    with closing(FragmentMaker(download_dir, kept_dir, params, open_pool, recogniser)) as maker:
        texts = _assemble(maker, entries, shards, out_dir, counts)
    if store_dir is None:
        shutil.rmtree(kept_dir)
    _check_counts(out_dir, counts)
    write_samples(out_dir)
    counts["near_duplicates"] = write_duplicates(out_dir)
    if params.vocabulary is None:
        counts["vocab_size"] = train_tokenizer(out_dir / TOKENIZER_NAME, texts, params.vocab_size)
    return dict(counts)


def _assemble(
    maker: FragmentMaker,
    entries: Sequence[ManifestEntry],
    shards: ShardWriter,
    out_dir: Path,
    counts: Counter[str],
) -> list[str]:
    """Make all fragments, copy them to shards, write index and quarantine; returns captions."""
    texts: list[str] = []
    quarantine = []
    with IndexWriter(out_dir / INDEX_NAME) as index:
        for entry, unlabelled, path in maker.make(entries):
            outcome = add_labels(unlabelled, entry)
            if outcome.reason is not None:
                named = {"source": entry.source, "video_id": entry.video_id, "path": entry.path}
                quarantine.append(named | {"reason": outcome.reason})
            if outcome.transcript is not None:
                append_transcript(out_dir / TRANSCRIPTS_NAME, entry, outcome.transcript)
                counts.update(count_lines(outcome.transcript))
            index.extend(shards.extend(outcome.segments, path))
            if entry.split == "train" and len(texts) < MAX_SENTENCES:
                texts += outcome.texts
            counts[f"segments_{entry.split}"] += len(outcome.segments)
            counts["inputs_with_problems"] += any(row.problem for row in outcome.segments)
    quarantine.sort(key=itemgetter("source", "video_id"))
    with (out_dir / QUARANTINE_NAME).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in quarantine)
    counts["quarantined"] = len(quarantine)
    return texts


def _check_counts(out_dir: Path, counts: Counter[str]) -> None:
    """Raise RuntimeError where an input was lost: each has segments, or a reason to have none."""
    with pq.ParquetFile(out_dir / INDEX_NAME) as index:
        batches = index.iter_batches(columns=["key"])
        keys = (key for rows in batches for key in rows["key"].to_pylist())
        num_accepted = sum(1 for _ in groupby(keys, key=lambda key: key.partition("_")[0]))
    with (out_dir / QUARANTINE_NAME).open("rb") as lines:
        num_quarantined = sum(1 for _ in lines)
    if num_accepted + num_quarantined != counts["inputs"]:
        raise RuntimeError(
            f"{counts['inputs']} inputs became {num_accepted} with segments and "
            f"{num_quarantined} in quarantine"
        )
