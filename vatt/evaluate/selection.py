"""Which clips evaluation reads: those that a number needs, and no more than linear classifiers use.

The index is read by columns, a part at a time, so that a corpus of millions costs seconds.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt64
from pandas.util import hash_array

from vatt.corpus.index import open_index, read_index
from vatt.corpus.manifest import FOLD_TASK
from vatt.corpus.samples import FIELDS, ROWS_AT_ONCE

FEATURES: Mapping[str, tuple[str, ...]] = {
    "video": ("video",),
    "audio": ("audio",),
    "audio_visual": ("video", "audio"),
}
"""What a linear classifier reads: the features of one modality, or of both side by side."""
COLUMNS = sorted({*FIELDS, "source", "video_id", "start_s", "end_s", "labels", "descriptions"})
"""What evaluation must know of a clip."""
SCANNED = ["key", "labels", "has_video", "has_audio"]


class Subset(NamedTuple):
    """Which of the clips with a label a linear classifier learns from."""

    max_clips: int | None = None
    """None is all of them."""
    seed: int = 0

    def draw_turns(self, keys: Sequence[str]) -> UInt64[np.ndarray, " N"]:
        """Return the turn of each clip, which the seed and its key alone decide.

        So all classifiers learn from the same clips where they can, which are read once, and a
        larger subset holds the smaller ones.
        """
        texts = np.asarray(keys, dtype=object)
        return hash_array(texts, hash_key=f"{self.seed:016d}", categorize=False)

    def choose(self, turns: UInt64[np.ndarray, " N"]) -> Int[np.ndarray, " M"]:
        """Return the places of the first `max_clips` turns, in the order in which they stand."""
        if self.max_clips is None or len(turns) <= self.max_clips:
            return np.arange(len(turns))
        return np.sort(np.argsort(turns, kind="stable")[: self.max_clips])


EVERYTHING = Subset()


def read_rows(
    preprocess_dir: Path, split: str, tasks: Collection[str] | None, subset: Subset
) -> pd.DataFrame:
    """Return the rows of the index that evaluation needs of a split, in their order.

    All clips of the split test are needed, for retrieval; of train those that classifiers of the
    labels `tasks` (None: of any) learn from; of validation those that they are chosen by; and of
    all splits those that the official folds of these labels measure.
    """
    if split == "test":
        return read_index(preprocess_dir, split=split)
    labelled = _scan(preprocess_dir, split)
    keys: list[str] = labelled["key"].to_pylist()
    is_needed = _find_needed(labelled, subset.draw_turns(keys), split, tasks, subset)
    needed = [keys[place] for place in np.flatnonzero(is_needed).tolist()]
    return read_index(preprocess_dir, split=split, columns=COLUMNS, keys=needed)


def has_folds(preprocess_dir: Path) -> bool:
    """Return whether clips are divided by the official folds of a data set."""
    parts = open_index(preprocess_dir).iter_batches(ROWS_AT_ONCE, columns=["labels"])
    marks = (pc.match_substring(part["labels"], f'"{FOLD_TASK}"') for part in parts)
    return any(pc.any(found).as_py() for found in marks)


def _scan(preprocess_dir: Path, split: str) -> pa.Table:
    """Return what is needed to choose among the clips of a split that have labels."""
    index = open_index(preprocess_dir)
    parts = []
    for rows in index.iter_batches(ROWS_AT_ONCE, columns=[*SCANNED, "split"]):
        is_labelled = pc.and_(pc.equal(rows["split"], split), pc.not_equal(rows["labels"], "{}"))
        parts.append(rows.filter(is_labelled).select(SCANNED))
    schema = pa.schema([index.schema_arrow.field(name) for name in SCANNED])
    return pa.Table.from_batches(parts, schema).combine_chunks()


def _find_needed(
    labelled: pa.Table,
    turns: UInt64[np.ndarray, " N"],
    split: str,
    tasks: Collection[str] | None,
    subset: Subset,
) -> Bool[np.ndarray, " N"]:
    """Return which of the labelled clips of a split are needed."""
    # Many clips have the same labels: each text is parsed once.
    coded = labelled["labels"].combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.chunk(0)
    texts: list[dict[str, list[str]]] = [json.loads(text) for text in coded.dictionary.to_pylist()]
    numbers = coded.indices.to_numpy(zero_copy_only=False)
    known = {task for text in texts for task in text} - {FOLD_TASK}
    needed = np.zeros(len(numbers), dtype=bool)
    for task in known if tasks is None else known & set(tasks):
        marks = [set(text.get(FOLD_TASK, ())) if task in text else set() for text in texts]
        groups = {mark for own in marks for mark in own if not mark.endswith(":test")}
        has_task = np.array([task in text for text in texts])[numbers]
        is_measured = np.array([any(mark.endswith(":test") for mark in own) for own in marks])
        needed |= has_task if split == "validation" else is_measured[numbers]
        learnt = [np.array([mark in own for own in marks])[numbers] for mark in sorted(groups)]
        for group in [has_task, *learnt] if split == "train" else learnt:
            for modalities in FEATURES.values():
                usable = group.copy()
                for modality in modalities:
                    usable &= labelled[f"has_{modality}"].to_numpy(zero_copy_only=False)
                places = np.flatnonzero(usable)
                needed[places[subset.choose(turns[places])]] = True
    return needed
