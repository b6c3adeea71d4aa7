"""The rules of a corpus, as Great Expectations over the columns of its tables.

Every rule has a name in `meta`, a description in plain words and a severity. A limit on a
property of real recordings, which are never all clean, is two rules: `<name>` (critical) fails
where most rows are wrong, `<name>_mostly` (warning) where more than a few are.
Empty values are ignored: a corpus without sound, or without text, breaks no limit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.metadata_types import FailureSeverity

from vatt.params import ValidateParams
from vatt.validate.tables import REQUIRED_COLUMNS, SPLITS

CRITICAL, WARNING = FailureSeverity.CRITICAL, FailureSeverity.WARNING
MIN_SPOKEN: dict[str, Any] = {"column": "spoken_rate", "min_value": 0.05}
"""The least share of speech in a video with captions; less is a mistake of the detector."""
TELLING = "videos that can tell"
"""The rows that are judged where captions are compared with speech."""
DESCRIPTIONS = {
    "columns": "The index has all the columns that the rules read.",
    "num_segments": "The number of segments is at least {}.",
    "key_present": "Every segment has a key.",
    "key_unique": "No two segments share a key.",
    "split_known": "Every segment is in one of the splits {}.",
    "leakage_of_videos": "All segments of a source video are in one split.",
    "leakage_of_files": "Source files with the same bytes, whatever their names, are in one split.",
    "frame_rate_constant": "All pictures have the frame rate that most have.",
    "short_side_constant": "The short side of all pictures is as long as that of most.",
    "duration_gap": "Picture and sound cover equally much of the segment, within {} s",
    "start_offset": "In the source file, picture and sound start together, within {} s",
    "captions_inside": "No caption of the source video starts after its end",
    "speech_rate": "Captions hold at most {} words per second",
    "silence": "At most {:.1%} of a segment's sound is silent (below -60 dBFS)",
    "clipping": "At most {:.1%} of a segment's sound is clipped (at full scale)",
    "blackness": "At most {:.1%} of a segment's frames are black",
    "freezing": "At most {:.1%} of a segment's frames equal the one before",
    "captions_fit": "Captions fit the speech with a score of at least {} (0: as those of another "
    "video, 1: the same)",
    "captions_in_time": "Captions that fit the speech are within {} s of it",
    "captions_spoken": "Somebody speaks in at least {:.0%} of the videos with captions.",
    "near_duplicates": "At least {:.1%} of the videos neither look nor sound like one of another "
    "split; named are those to leave out of training.",
    "quarantined": "At most {:.0%} of the inputs that were there are in quarantine.",
    "num_segments_per_split": "The number of segments of every split is at least {}.",
}
"""What the rules say, with places for their limits; those with two severities say how many rows."""


def column_rules() -> list[Any]:
    """Return the rule that all others need: the index has the columns they read."""
    kind = gxe.ExpectTableColumnsToMatchSet
    return [_rule("columns", kind, column_set=REQUIRED_COLUMNS, exact_match=False)]


def table_rules(params: ValidateParams) -> dict[str, list[Any]]:
    """Return the rules of each table of `tabulate`, by its name."""
    between, null = gxe.ExpectColumnValuesToBeBetween, gxe.ExpectColumnValuesToBeNull
    known = gxe.ExpectColumnValuesToBeInSet
    size, sizes = params.min_segments, params.min_segments_per_split
    quarantined, splits = params.max_quarantined_rate, ", ".join(SPLITS)
    spoken, single = 1 - params.max_unspoken_rate, 1 - params.max_duplicate_rate
    warn, limit = partial(_rule, severity=WARNING), partial(_limit, params)
    score, gap_s = params.min_caption_score, params.max_caption_offset_s
    return {
        "segments": [
            _rule("num_segments", gxe.ExpectTableRowCountToBeBetween, size, min_value=size),
            _rule("key_present", gxe.ExpectColumnValuesToNotBeNull, column="key"),
            _rule("key_unique", gxe.ExpectColumnValuesToBeUnique, column="key"),
            _rule("split_known", known, splits, column="split", value_set=SPLITS),
            _rule("leakage_of_videos", between, column="splits_of_video", max_value=1),
            _rule("leakage_of_files", between, column="splits_of_file", max_value=1),
            # Stored pictures have one frame rate and one short side, so that they fit one batch.
            _rule("frame_rate_constant", between, column="frame_rate_gap_hz", max_value=0),
            _rule("short_side_constant", between, column="short_side_gap_px", max_value=0),
            *limit("duration_gap", "duration_gap_s", max_value=params.max_duration_gap_s),
            *limit("start_offset", "start_gap_s", max_value=params.max_start_offset_s),
            *limit("captions_inside", "captions_outside", max_value=0),
            *limit(
                "speech_rate", "caption_words_per_second", max_value=params.max_words_per_second
            ),
            *limit("silence", "silent_rate", max_value=params.max_silent_rate),
            *limit("clipping", "clipped_rate", max_value=params.max_clipped_rate),
            *limit("blackness", "black_rate", max_value=params.max_black_rate),
            *limit("freezing", "frozen_rate", max_value=params.max_frozen_rate),
        ],
        "videos": [
            *limit("captions_fit", "caption_score", TELLING, min_value=score),
            *limit("captions_in_time", "captions_gap_s", TELLING, max_value=gap_s),
            warn("captions_spoken", between, spoken, **MIN_SPOKEN, mostly=spoken),
            warn("near_duplicates", null, single, column="duplicate_of", mostly=single),
        ],
        "inputs": [
            _rule("quarantined", null, quarantined, column="reason", mostly=1 - quarantined)
        ],
        "splits": [
            _rule("num_segments_per_split", between, sizes, column="num_segments", min_value=sizes)
        ],
    }


def _limit(
    params: ValidateParams, name: str, column: str, rows: str = "segments", **limit: float
) -> list[Any]:
    """Return two rules for a limit: critical where most rows break it, a warning for some."""
    tiers = [("", params.mostly_critical, CRITICAL), ("_mostly", params.mostly_warning, WARNING)]
    rules = []
    for suffix, mostly, severity in tiers:
        tier = suffix, f": in at least {mostly:.0%} of the {rows}."
        config = {"severity": severity, "tier": tier, "column": column, "mostly": mostly, **limit}
        rules.append(_rule(name, gxe.ExpectColumnValuesToBeBetween, *limit.values(), **config))
    return rules


def _rule(
    name: str,
    kind: Callable[..., Any],
    *values: object,
    severity: FailureSeverity = CRITICAL,
    tier: tuple[str, str] = ("", ""),
    **config: Any,
) -> Any:
    """Return a rule whose description names `values`; `tier` ends its name and description."""
    suffix, rows = tier
    description = DESCRIPTIONS[name].format(*values) + rows
    return kind(description=description, severity=severity, meta={"name": name + suffix}, **config)
