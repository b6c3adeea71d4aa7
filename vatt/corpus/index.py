"""The index of a preprocessed corpus: a Parquet file with a row for each segment.

A segment is a piece of a source file: what is stored of it, what was measured, and its labels.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vatt.core.errors import StageError
from vatt.core.files import digest_file


@dataclass(frozen=True)
class Segment:
    """One row of the index. Offsets and sizes are bytes of the shard; a missing member has size 0.

    NaN stands for what does not exist, such as the length of the sound of a silent film.
    """

    key: str
    """A hash of the source and the video id, and the segment's number: unique, of [0-9a-z_]."""
    source: str
    video_id: str
    split: str
    start_s: float
    end_s: float
    """Times in the source file, which begins at 0."""
    has_video: bool
    has_audio: bool
    num_captions: int
    """The captions that overlap the segment."""
    num_frames: int
    frame_rate_hz: float
    width_px: int
    height_px: int
    num_samples: int
    video_duration_s: float
    audio_duration_s: float
    """How much of the segment the picture and the sound of the source cover."""
    start_offset_s: float
    """Where the sound starts in the source file minus where the picture does."""
    caption_words_per_second: float
    silent_rate: float
    """The share of windows of 20 ms below -60 dBFS."""
    clipped_rate: float
    """The share of samples from 99 % of full scale on."""
    black_rate: float
    """The share of frames whose mean luma is below 16 of 255."""
    frozen_rate: float
    """The share of frames that equal the one before within noise."""
    picture_hashes: str
    """Perceptual hashes, 16 hexadecimal digits each, of the frames at whole seconds of the file."""
    labels: str
    """JSON that maps a task to its labels, those that overlap the segment most first."""
    descriptions: str
    """A JSON list of annotated descriptions in the same order: queries of the evaluation."""
    speech_rate: float = math.nan
    """The share of the sound in which somebody speaks."""
    caption_offset_s: float = math.nan
    """How much later than the speech the captions of the file are, see
    `vatt.preprocess.analysis.CaptionTiming`."""
    caption_score: float = math.nan
    """How sure that is, from 0 (as captions of another video) to 1; NaN where nothing shows it."""
    sound_hashes: str = ""
    """The same of the sound that begins at each of these seconds."""
    num_context_captions: int = 0
    """The captions that are stored with it, also those up to caption_context_s away."""
    captions_outside: int = 0
    """The captions of the source that start beyond the end of the file."""
    source_digest: str = ""
    """The BLAKE2b of the source file, hexadecimal."""
    digest: str = ""
    """The BLAKE2b of the stored picture, sound and captions, hexadecimal."""
    problem: str | None = None
    """What could not be read of the source file or of its captions."""
    shard: str = ""
    """The name of the file below shards/."""
    video_offset: int = 0
    video_bytes: int = 0
    audio_offset: int = 0
    audio_bytes: int = 0
    meta_offset: int = 0
    meta_bytes: int = 0


INDEX_NAME = "index.parquet"
SHARDS_NAME = "shards"
QUARANTINE_NAME = "quarantine.jsonl"
DUPLICATES_NAME = "duplicates.jsonl"
ROWS_PER_GROUP = 50_000
_ARROW_TYPES = {
    str: (pa.string(), False),
    str | None: (pa.string(), True),
    int: (pa.int64(), False),
    float: (pa.float64(), False),
    bool: (pa.bool_(), False),
}


def make_schema() -> pa.Schema:
    """Return the columns of an index: the fields of `Segment`."""
    return pa.schema(
        pa.field(field.name, arrow_type, nullable=nullable)
        for field in dataclasses.fields(Segment)
        for arrow_type, nullable in [_ARROW_TYPES[field.type]]  # type: ignore[index]
    )


class IndexWriter:
    """Writes an index row group by row group; segments come in the order of their keys."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, make_schema())
        self._rows: list[Segment] = []
        self._last_key = ""

    def extend(self, segments: Iterable[Segment]) -> None:
        """Append rows."""
        for segment in segments:
            if segment.key <= self._last_key:
                raise ValueError(f"{segment.key} does not come after {self._last_key}")
            self._last_key = segment.key
            self._rows.append(segment)
            if len(self._rows) == ROWS_PER_GROUP:
                self._write_group()

    def _write_group(self) -> None:
        rows = [vars(segment) for segment in self._rows]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=make_schema()))
        self._rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            self._write_group()
        self._writer.close()


def digest_index(preprocess_dir: Path) -> str:
    """Return the BLAKE2b of the index, hexadecimal, which stands for the version of the corpus.

    The rows hold digests of what the shards hold, so that another corpus has another index. OSError
    says that the file is missing or cannot be read.
    """
    return digest_file(preprocess_dir / INDEX_NAME)


def open_index(preprocess_dir: Path) -> pq.ParquetFile:
    """Open the index of a preprocessed corpus, to read it part by part.

    Raises:
        StageError: the file is missing, damaged or of another version of this program.
    """
    path = preprocess_dir / INDEX_NAME
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise StageError(
            f"{path}: does not exist; run `python -m vatt preprocess` first"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise StageError(f"{path}: cannot be read: {error}") from error
    if not file.schema_arrow.equals(make_schema()):
        missing = sorted({*make_schema().names} - {*file.schema_arrow.names})
        raise StageError(
            f"{path}: has other columns than this version of vatt writes (missing: {missing}); "
            "run `python -m vatt preprocess` again"
        )
    return file


def read_index(
    preprocess_dir: Path,
    *,
    split: str | None = None,
    columns: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read the index of a preprocessed corpus, sorted by key, or a split, columns, keys of it.

    StageError as `open_index`.
    """
    open_index(preprocess_dir)  # names what is wrong with the file
    path = preprocess_dir / INDEX_NAME
    rows = None if split is None else pc.field("split") == split
    if keys is not None:
        own = pc.field("key").isin(pa.array(keys, pa.string()))
        rows = own if rows is None else rows & own
    try:
        frame: pd.DataFrame = pq.read_table(path, columns=columns, filters=rows).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise StageError(f"{path}: cannot be read: {error}") from error
    return frame
