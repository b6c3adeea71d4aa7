"""The rules of a corpus, as Great Expectations over its segments, its inputs and its splits.

Every rule has a name in `meta`, a description in plain words and a severity. A limit on a
property of real recordings, which are never all clean, is two rules: `<name>` (critical) fails
where most segments are wrong, `<name>_mostly` (warning) where more than a few are.
Empty values are ignored: a corpus without sound, or without text, breaks no limit.

The tables that the rules judge: segments, videos, inputs and splits, a row each.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.metadata_types import FailureSeverity

from vatt.corpus.manifest import MISSING
from vatt.params import ValidateParams

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


CRITICAL, WARNING = FailureSeverity.CRITICAL, FailureSeverity.WARNING
REQUIRED_COLUMNS = [
    *("key", "source", "video_id", "split", "source_digest", "has_video"),
    *("frame_rate_hz", "width_px", "height_px", "video_duration_s", "audio_duration_s"),
    *("start_offset_s", "caption_words_per_second", "captions_outside"),
    *("silent_rate", "clipped_rate", "black_rate", "frozen_rate"),
    *("has_audio", "num_captions", "speech_rate", "caption_offset_s", "caption_score"),
]
MIN_SPOKEN_RATE = 0.05
"""Where captions are: a lower share of speech is none, but for mistakes of the detector."""


def column_expectations() -> list[Any]:
    """Return the rule that all others need: the index has the columns they read."""
    return [
        gxe.ExpectTableColumnsToMatchSet(
            column_set=REQUIRED_COLUMNS,
            exact_match=False,
            severity=CRITICAL,
            description="The index has all the columns that the rules read.",
            meta={"name": "columns"},
        )
    ]


def segment_expectations(params: ValidateParams) -> list[Any]:
    """Return the rules of the segments, one row each."""
    return [
        gxe.ExpectTableRowCountToBeBetween(
            min_value=params.min_segments,
            severity=CRITICAL,
            description=f"The number of segments is at least {params.min_segments}.",
            meta={"name": "num_segments"},
        ),
        *_identity_expectations(),
        *_constancy_expectations(),
        *_tiered(_segment_limits(params), params, "segments"),
    ]


def video_expectations(params: ValidateParams) -> list[Any]:
    """Return the rules of the videos, one row each: captions against speech, near-duplicates."""
    spoken, single = 1 - params.max_unspoken_rate, 1 - params.max_duplicate_rate
    return [
        *_tiered(_caption_limits(params), params, "videos that can tell"),
        gxe.ExpectColumnValuesToBeBetween(
            column="spoken_rate",
            min_value=MIN_SPOKEN_RATE,
            mostly=spoken,
            severity=WARNING,
            description=f"Somebody speaks in at least {spoken:.0%} of the videos with captions.",
            meta={"name": "captions_spoken"},
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="duplicate_of",
            mostly=single,
            severity=WARNING,
            description=f"At least {single:.1%} of the videos neither look nor sound like one of "
            "another split; named are those to leave out of training.",
            meta={"name": "near_duplicates"},
        ),
    ]


def input_expectations(params: ValidateParams) -> list[Any]:
    """Return the rule of the inputs: one row per source video, with the reason if it was refused."""
    rate = params.max_quarantined_rate
    return [
        gxe.ExpectColumnValuesToBeNull(
            column="reason",
            mostly=1 - rate,
            severity=CRITICAL,
            description=f"At most {rate:.0%} of the inputs that were there are in quarantine.",
            meta={"name": "quarantined"},
        )
    ]


def split_expectations(params: ValidateParams) -> list[Any]:
    """Return the rule of the splits: one row each."""
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column="num_segments",
            min_value=params.min_segments_per_split,
            severity=CRITICAL,
            description=f"The number of segments of every split is at least {params.min_segments_per_split}.",
            meta={"name": "num_segments_per_split"},
        )
    ]


def _identity_expectations() -> list[Any]:
    """Keys name one segment each, and no video or file stands in two splits."""
    return [
        gxe.ExpectColumnValuesToNotBeNull(
            column="key",
            severity=CRITICAL,
            description="Every segment has a key.",
            meta={"name": "key_present"},
        ),
        gxe.ExpectColumnValuesToBeUnique(
            column="key",
            severity=CRITICAL,
            description="No two segments share a key.",
            meta={"name": "key_unique"},
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="split",
            value_set=SPLITS,
            severity=CRITICAL,
            description=f"Every segment is in one of the splits {', '.join(SPLITS)}.",
            meta={"name": "split_known"},
        ),
        _never_above(
            "splits_of_video",
            1,
            "leakage_of_videos",
            "All segments of a source video are in one split.",
        ),
        _never_above(
            "splits_of_file",
            1,
            "leakage_of_files",
            "Source files with the same bytes, whatever their names, are in one split.",
        ),
    ]


def _constancy_expectations() -> list[Any]:
    """Stored pictures have one frame rate and one short side, so that they fit one batch."""
    return [
        _never_above(
            "frame_rate_gap_hz",
            0,
            "frame_rate_constant",
            "All pictures have the frame rate that most have.",
        ),
        _never_above(
            "short_side_gap_px",
            0,
            "short_side_constant",
            "The short side of all pictures is as long as that of most.",
        ),
    ]


class _Limit(NamedTuple):
    """What is asked of a column of real recordings; the description holds {limit}."""

    column: str
    limit: float
    description: str
    is_lowest: bool = False


def _tiered(limits: Mapping[str, _Limit], params: ValidateParams, rows: str) -> list[Any]:
    """Return two rules for each limit: critical where most rows break it, a warning for some."""
    tiers = [
        ("", params.mostly_critical, CRITICAL),
        ("_mostly", params.mostly_warning, WARNING),
    ]
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column=limit.column,
            min_value=limit.limit if limit.is_lowest else None,
            max_value=None if limit.is_lowest else limit.limit,
            mostly=mostly,
            severity=severity,
            description=f"{limit.description.format(limit=limit.limit)}: "
            f"in at least {mostly:.0%} of the {rows}.",
            meta={"name": name + suffix},
        )
        for name, limit in limits.items()
        for suffix, mostly, severity in tiers
    ]


def _caption_limits(params: ValidateParams) -> dict[str, _Limit]:
    """Return what is asked of captions against speech."""
    return {
        "captions_fit": _Limit(
            "caption_score",
            params.min_caption_score,
            "Captions fit the speech with a score of at least {limit} (0: as those of another "
            "video, 1: the same)",
            is_lowest=True,
        ),
        "captions_in_time": _Limit(
            "captions_gap_s",
            params.max_caption_offset_s,
            "Captions that fit the speech are within {limit} s of it",
        ),
    }


def _segment_limits(params: ValidateParams) -> dict[str, _Limit]:
    """Return what is asked of the picture, sound and captions of a segment."""
    return {
        "duration_gap": _Limit(
            "duration_gap_s",
            params.max_duration_gap_s,
            "Picture and sound cover equally much of the segment, within {limit} s",
        ),
        "start_offset": _Limit(
            "start_gap_s",
            params.max_start_offset_s,
            "In the source file, picture and sound start together, within {limit} s",
        ),
        "captions_inside": _Limit(
            "captions_outside",
            0,
            "No caption of the source video starts after its end",
        ),
        "speech_rate": _Limit(
            "caption_words_per_second",
            params.max_words_per_second,
            "Captions hold at most {limit} words per second",
        ),
        "silence": _Limit(
            "silent_rate",
            params.max_silent_rate,
            "At most {limit:.1%} of a segment's sound is silent (below -60 dBFS)",
        ),
        "clipping": _Limit(
            "clipped_rate",
            params.max_clipped_rate,
            "At most {limit:.1%} of a segment's sound is clipped (at full scale)",
        ),
        "blackness": _Limit(
            "black_rate",
            params.max_black_rate,
            "At most {limit:.1%} of a segment's frames are black",
        ),
        "freezing": _Limit(
            "frozen_rate",
            params.max_frozen_rate,
            "At most {limit:.1%} of a segment's frames equal the one before",
        ),
    }


def _never_above(column: str, limit: float, name: str, description: str) -> Any:
    """Return a critical rule that no segment may break."""
    return gxe.ExpectColumnValuesToBeBetween(
        column=column,
        max_value=limit,
        severity=CRITICAL,
        description=description,
        meta={"name": name},
    )
