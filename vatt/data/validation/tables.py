"""The tables that the rules judge: segments, videos, inputs and splits, a row each."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from vatt.data.manifest import MISSING

SPLITS = ["train", "validation", "test"]
VIDEO = ["source", "video_id"]
DUPLICATE_COLUMNS = [*VIDEO, "split", "duplicate_of", "kind", "num_seconds", "distance"]


def read_quarantine(path: Path) -> pd.DataFrame:
    """Read quarantine.jsonl into a frame of source, video_id and reason; it may be empty."""
    return _read_lines(path, [*VIDEO, "reason"])


def read_duplicates(path: Path) -> pd.DataFrame:
    """Read duplicates.jsonl into a frame with its columns; it may be empty."""
    return _read_lines(path, DUPLICATE_COLUMNS)


def _read_lines(path: Path, columns: list[str]) -> pd.DataFrame:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def tabulate_segments(index: pd.DataFrame) -> pd.DataFrame:
    """Add to the index what a rule over one column cannot compute."""
    times = index[["video_duration_s", "audio_duration_s", "start_offset_s"]].astype(float)
    pictures = index[index["has_video"].astype(bool)]
    short_side_px = pictures[["width_px", "height_px"]].min(axis=1)
    videos = index.groupby(VIDEO)["split"]
    files = index.groupby("source_digest")["split"]
    return index.assign(
        duration_gap_s=(times["video_duration_s"] - times["audio_duration_s"]).abs(),
        start_gap_s=times["start_offset_s"].abs(),
        splits_of_video=videos.transform("nunique"),
        splits_of_file=files.transform("nunique"),
        frame_rate_gap_hz=_gap_to_most(pictures["frame_rate_hz"]),
        short_side_gap_px=_gap_to_most(short_side_px),
    )


def tabulate_videos(
    index: pd.DataFrame, duplicates: pd.DataFrame, min_caption_score: float
) -> pd.DataFrame:
    """One row per video of the index.

    `captions_gap_s` is how far its captions are from its speech, empty where the score is too low
    to tell; `spoken_rate` the share of speech in its captioned segments, empty without captions or
    sound; `duplicate_of` names the videos of other splits that it is like.
    """
    numbers = index[["caption_score", "caption_offset_s"]].astype(float)
    videos = index[VIDEO].join(numbers).drop_duplicates(VIDEO)
    is_sure = videos["caption_score"] >= min_caption_score
    told = index[(index["num_captions"] > 0) & index["has_audio"].astype(bool)]
    length_s = told["audio_duration_s"].astype(float)
    speech = told[VIDEO].assign(
        length_s=length_s, speech_s=told["speech_rate"].astype(float) * length_s
    )
    sums = speech.groupby(VIDEO)[["length_s", "speech_s"]].sum().reset_index()
    sums["spoken_rate"] = sums["speech_s"] / sums["length_s"]
    texts = pd.DataFrame(
        {
            **{name: duplicates[name] for name in VIDEO},
            "duplicate_of": [_tell_duplicate(row) for row in duplicates.to_dict("records")],
        },
        dtype=object,
    )
    alike = texts.groupby(VIDEO)["duplicate_of"].agg("; ".join).reset_index()
    videos = videos.assign(captions_gap_s=videos["caption_offset_s"].abs().where(is_sure))
    return videos.merge(sums[[*VIDEO, "spoken_rate"]], how="left", on=VIDEO).merge(
        alike, how="left", on=VIDEO
    )


def _tell_duplicate(row: dict[Any, Any]) -> str:
    like = row["duplicate_of"]
    return (
        f"{row['kind']} like {like['source']}/{like['video_id']} ({like['split']}) "
        f"for {row['num_seconds']} s"
    )


def tabulate_inputs(index: pd.DataFrame, quarantine: pd.DataFrame) -> pd.DataFrame:
    """One row per input that was there, with the reason why it is in quarantine, if it is."""
    accepted = index[VIDEO].drop_duplicates()
    refused = quarantine[~find_missing(quarantine)].drop_duplicates(VIDEO)
    return accepted.merge(refused, how="outer", on=VIDEO)


def find_missing(quarantine: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows were never there: a user may have a part of a public data set only."""
    return quarantine["reason"].astype(str).str.startswith(MISSING)


def tabulate_splits(index: pd.DataFrame) -> pd.DataFrame:
    """One row per split with its number of segments, splits without any included."""
    sizes = index["split"].value_counts().reindex(SPLITS, fill_value=0)
    return pd.DataFrame({"split": sizes.index, "num_segments": sizes.to_numpy()})


def _gap_to_most(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return how far each value is from the most frequent one."""
    most = values.mode()
    return (values - most.iloc[0]).abs() if len(most) else values
