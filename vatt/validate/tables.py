"""The tables that the rules judge, a row for each segment, video, input and split."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from vatt.corpus.index import DUPLICATES_NAME, INDEX_NAME, QUARANTINE_NAME
from vatt.corpus.manifest import MISSING

SPLITS = ["train", "validation", "test"]
VIDEO = ["source", "video_id"]
DUPLICATE_COLUMNS = [*VIDEO, "split", "duplicate_of", "kind", "num_seconds", "distance"]
REQUIRED_COLUMNS = [
    *("key", "source", "video_id", "split", "source_digest", "has_video"),
    *("frame_rate_hz", "width_px", "height_px", "video_duration_s", "audio_duration_s"),
    *("start_offset_s", "caption_words_per_second", "captions_outside"),
    *("silent_rate", "clipped_rate", "black_rate", "frozen_rate"),
    *("has_audio", "num_captions", "speech_rate", "caption_offset_s", "caption_score"),
]


@dataclass(frozen=True)
class Corpus:
    """What preprocess says of a corpus."""

    index: pd.DataFrame
    """A row per segment."""
    quarantine: pd.DataFrame
    """A row per input that has no segments."""
    duplicates: pd.DataFrame
    """A row per video and kind that is like one of another split."""

    def find_missing(self) -> "pd.Series[bool]":
        """Return which quarantined inputs were never there: users may have a part of a data set."""
        return self.quarantine["reason"].astype(str).str.startswith(MISSING)


def read_corpus(preprocess_dir: Path) -> Corpus:
    """Read what preprocess wrote: of the index the columns that rules need, of both lists all.

    A file that is missing or damaged is an OSError, a ValueError or an ArrowException.
    """
    path = preprocess_dir / INDEX_NAME
    present = pq.read_schema(path).names
    # Not all of a large index: hashes and texts make up most of it.
    index = pd.read_parquet(path, columns=[name for name in REQUIRED_COLUMNS if name in present])
    lists = {QUARANTINE_NAME: [*VIDEO, "reason"], DUPLICATES_NAME: DUPLICATE_COLUMNS}
    frames = []
    for name, columns in lists.items():
        with (preprocess_dir / name).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        frames.append(pd.DataFrame(rows, columns=columns, dtype=object))
    return Corpus(index, *frames)


def tabulate(corpus: Corpus, min_caption_score: float) -> dict[str, pd.DataFrame]:
    """Return the tables by name, from a corpus whose index has the required columns.

    The inputs are those that were there, with the reason of those in quarantine; the splits have
    their number of segments, which may be 0.
    """
    index, quarantine = corpus.index, corpus.quarantine
    refused = quarantine[~corpus.find_missing()].drop_duplicates(VIDEO)
    sizes = index["split"].value_counts().reindex(SPLITS, fill_value=0)
    return {
        "segments": _tabulate_segments(index),
        "videos": _tabulate_videos(index, corpus.duplicates, min_caption_score),
        "inputs": index[VIDEO].drop_duplicates().merge(refused, how="outer", on=VIDEO),
        "splits": pd.DataFrame({"split": sizes.index, "num_segments": sizes.to_numpy()}),
    }


def list_copies(index: pd.DataFrame) -> list[str]:
    """Return which files have the same bytes and are in several splits: `a (train) = b (test)`."""
    if not {*VIDEO, "split", "source_digest"} <= set(index.columns):
        return []
    files = index.drop_duplicates([*VIDEO, "split"]).sort_values(VIDEO)
    return [
        " = ".join(f"{row.source}/{row.video_id} ({row.split})" for row in copies.itertuples())
        for _, copies in files.groupby("source_digest", sort=False)
        if len(set(copies["split"])) > 1 and len(copies[VIDEO].drop_duplicates()) > 1
    ]


def _tabulate_segments(index: pd.DataFrame) -> pd.DataFrame:
    """Add to the index what a rule over one column cannot compute."""
    times = index[["video_duration_s", "audio_duration_s", "start_offset_s"]].astype(float)
    pictures = index[index["has_video"].astype(bool)]
    short_side_px = pictures[["width_px", "height_px"]].min(axis=1)
    return index.assign(
        duration_gap_s=(times["video_duration_s"] - times["audio_duration_s"]).abs(),
        start_gap_s=times["start_offset_s"].abs(),
        splits_of_video=index.groupby(VIDEO)["split"].transform("nunique"),
        splits_of_file=index.groupby("source_digest")["split"].transform("nunique"),
        frame_rate_gap_hz=_gap_to_most(pictures["frame_rate_hz"]),
        short_side_gap_px=_gap_to_most(short_side_px),
    )


def _gap_to_most(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return how far each value is from the most frequent one."""
    most = values.mode()
    return (values - most.iloc[0]).abs() if len(most) else values


def _tabulate_videos(
    index: pd.DataFrame, duplicates: pd.DataFrame, min_caption_score: float
) -> pd.DataFrame:
    """Return a row per video of the index.

    `captions_gap_s` is how far its captions are from its speech, empty where the score is too low
    to say; `spoken_rate` the share of speech in its captioned segments, empty without captions or
    sound; `duplicate_of` names the videos of other splits that it is like.
    """
    numbers = index[["caption_score", "caption_offset_s"]].astype(float)
    videos = index[VIDEO].join(numbers).drop_duplicates(VIDEO)
    is_sure = videos["caption_score"] >= min_caption_score
    videos = videos.assign(captions_gap_s=videos["caption_offset_s"].abs().where(is_sure))
    captioned = index[(index["num_captions"] > 0) & index["has_audio"].astype(bool)]
    length_s = captioned["audio_duration_s"].astype(float)
    speech_s = captioned["speech_rate"].astype(float) * length_s
    speech = captioned[VIDEO].assign(length_s=length_s, speech_s=speech_s)
    sums = speech.groupby(VIDEO)[["length_s", "speech_s"]].sum().reset_index()
    sums["spoken_rate"] = sums["speech_s"] / sums["length_s"]
    texts = [
        f"{row['kind']} like {like['source']}/{like['video_id']} ({like['split']}) "
        f"for {row['num_seconds']} s"
        for row in duplicates.to_dict("records")
        for like in [row["duplicate_of"]]
    ]
    alike = duplicates[VIDEO].assign(duplicate_of=pd.Series(texts, duplicates.index, dtype=object))
    alike = alike.groupby(VIDEO)["duplicate_of"].agg("; ".join).reset_index()
    videos = videos.merge(sums[[*VIDEO, "spoken_rate"]], how="left", on=VIDEO)
    return videos.merge(alike, how="left", on=VIDEO)
