"""The preprocessed corpus: all files of the manifest as shards, index, tokenizer and quarantine."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vatt.data.index import (
    INDEX_NAME,
    QUARANTINE_NAME,
    SHARDS_NAME,
    IndexWriter,
)
from vatt.data.manifest import ManifestEntry, read_manifest
from vatt.data.preprocessing.fragments import Outcome, key_of, write_fragment
from vatt.data.preprocessing.workers import run_in_workers
from vatt.data.shards import ShardWriter
from vatt.data.tokenizer import (
    MAX_SENTENCES,
    TOKENIZER_NAME,
    VOCABULARY_NAME,
    train_tokenizer,
)
from vatt.data.word_tokenizer import WordTokenizer
from vatt.params import PreprocessParams

CRASHED = "the decoder crashed: its process ended abruptly"


def write_corpus(
    download_dir: Path, out_dir: Path, params: PreprocessParams, num_workers: int
) -> dict[str, Any]:
    """Preprocess every file of the manifest into the empty folder `out_dir`; returns metrics.

    The bytes do not depend on `num_workers`. Every row of the manifest becomes segments in the
    index or a row of the quarantine list.

    Raises:
        StageError: the manifest or `params.vocabulary` cannot be used.
    """
    # In the order of the keys, which are hashes: that shuffles the shards, once for all.
    entries = sorted(read_manifest(download_dir), key=key_of)
    counts: Counter[str] = Counter(inputs=len(entries))
    if params.vocabulary is not None:  # first, because what follows may take days
        counts["vocab_size"] = WordTokenizer(params.vocabulary).vocab_size
        shutil.copyfile(params.vocabulary, out_dir / VOCABULARY_NAME)
    fragments_dir = out_dir / "fragments"
    fragments_dir.mkdir()
    work = partial(write_fragment, download_dir, fragments_dir, params)
    outcomes = run_in_workers(work, entries, num_workers)
    shards = ShardWriter(out_dir / SHARDS_NAME, params.segments_per_shard)
    texts: list[str] = []
    quarantine = []
    with IndexWriter(out_dir / INDEX_NAME) as index:
        files = tqdm(zip(entries, outcomes, strict=True), "preprocess", len(entries), unit="file")
        for entry, outcome in files:
            segments, file_texts, reason = outcome or Outcome([], [], CRASHED)
            if reason is not None:
                quarantine.append((entry, reason))
            fragment_path = fragments_dir / key_of(entry)
            index.extend(shards.extend(segments, fragment_path))
            fragment_path.unlink(missing_ok=True)
            if entry.split == "train" and len(texts) < MAX_SENTENCES:
                texts += file_texts
            counts[f"segments_{entry.split}"] += len(segments)
            counts["inputs_with_problems"] += any(segment.problem for segment in segments)
    fragments_dir.rmdir()
    _write_quarantine(out_dir / QUARANTINE_NAME, quarantine)
    counts["quarantined"] = len(quarantine)
    if params.vocabulary is None:
        counts["vocab_size"] = train_tokenizer(out_dir / TOKENIZER_NAME, texts, params.vocab_size)
    return dict(counts)


def _write_quarantine(path: Path, rows: Iterable[tuple[ManifestEntry, str]]) -> None:
    """Write the inputs that did not become segments, one JSON object a line, with the reason."""
    ordered = sorted(rows, key=lambda row: (row[0].source, row[0].video_id))
    with path.open("w", encoding="utf-8") as file:
        for entry, reason in ordered:
            row = {
                "source": entry.source,
                "video_id": entry.video_id,
                "path": entry.path,
                "reason": reason,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
