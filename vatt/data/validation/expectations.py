"""The rules of a corpus, as Great Expectations over its segments, its inputs and its splits.

Every rule has a name in `meta`, a description in plain words and a severity. A limit on a
property of real recordings, which are never all clean, is two rules: `<name>` (critical) fails
where most segments are wrong, `<name>_mostly` (warning) where more than a few are.
Empty values are ignored: a corpus without sound, or without text, breaks no limit.
"""

from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.metadata_types import FailureSeverity

from vatt.params import ValidateParams

CRITICAL, WARNING = FailureSeverity.CRITICAL, FailureSeverity.WARNING
SPLITS = ["train", "validation", "test"]
REQUIRED_COLUMNS = [
    *("key", "source", "video_id", "split", "source_digest", "has_video"),
    *("frame_rate_hz", "width_px", "height_px", "video_duration_s", "audio_duration_s"),
    *("start_offset_s", "caption_words_per_second", "captions_outside"),
    *("silent_rate", "black_rate"),
]


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
            description=f"The corpus has at least {params.min_segments} segments.",
            meta={"name": "num_segments"},
        ),
        *_identity_expectations(),
        *_constancy_expectations(),
        *_alignment_expectations(params),
    ]


def input_expectations(params: ValidateParams) -> list[Any]:
    """Return the rule of the inputs: one row per source video, with the reason if it was refused."""
    rate = params.max_quarantined_rate
    return [
        gxe.ExpectColumnValuesToBeNull(
            column="reason",
            mostly=1 - rate,
            severity=CRITICAL,
            description=f"At most {rate:.0%} of the inputs are in quarantine.",
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
            description=f"Every split has at least {params.min_segments_per_split} segments.",
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


def _alignment_expectations(params: ValidateParams) -> list[Any]:
    """Picture, sound and captions of a segment belong together, in two tiers."""
    tiers = [
        ("", params.mostly_critical, CRITICAL),
        ("_mostly", params.mostly_warning, WARNING),
    ]
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column=column,
            max_value=limit,
            mostly=mostly,
            severity=severity,
            description=f"{text.format(limit=limit)}: in at least {mostly:.0%} of the segments.",
            meta={"name": name + suffix},
        )
        for name, (column, limit, text) in _limits(params).items()
        for suffix, mostly, severity in tiers
    ]


def _limits(params: ValidateParams) -> dict[str, tuple[str, float, str]]:
    """Return column, highest value and description of each property of real recordings."""
    return {
        "duration_gap": (
            "duration_gap_s",
            params.max_duration_gap_s,
            "Picture and sound cover equally much of the segment, within {limit} s",
        ),
        "start_offset": (
            "start_gap_s",
            params.max_start_offset_s,
            "In the source file, picture and sound start together, within {limit} s",
        ),
        "captions_inside": (
            "captions_outside",
            0,
            "No caption of the source video starts after its end",
        ),
        "speech_rate": (
            "caption_words_per_second",
            params.max_words_per_second,
            "Captions hold at most {limit} words per second",
        ),
        "silence": (
            "silent_rate",
            params.max_silent_rate,
            "At most {limit:.0%} of a segment's sound is silent (below -60 dBFS)",
        ),
        "blackness": (
            "black_rate",
            params.max_black_rate,
            "At most {limit:.0%} of a segment's frames are black",
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
