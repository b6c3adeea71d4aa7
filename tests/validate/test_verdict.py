"""Each rule fails for exactly the corpus that breaks it, and names the segments that do."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.validate.clean import NUM_SEGMENTS, PARAMS, clean_index, corpus, failures
from vatt.validate.tables import REQUIRED_COLUMNS
from vatt.validate.verdict import validate_corpus


def test_a_clean_corpus_passes_every_rule() -> None:
    verdict, _ = validate_corpus(corpus(clean_index(), num_refused=2), PARAMS)
    assert verdict["passed"]
    assert (verdict["num_segments"], verdict["num_quarantined"]) == (NUM_SEGMENTS, 2)
    assert verdict["num_videos"] == NUM_SEGMENTS // 2
    names = [rule["name"] for rule in verdict["expectations"]]
    assert len(set(names)) == len(names) == 33


# Column, the value of a broken segment, the rule it breaks: above the limits, and below zero.
ABOVE = [
    ("audio_duration_s", 4.3, "duration_gap"),
    ("start_offset_s", 0.25, "start_offset"),
    ("captions_outside", 1, "captions_inside"),
    ("caption_words_per_second", 8.5, "speech_rate"),
    ("silent_rate", 0.96, "silence"),
    ("clipped_rate", 0.11, "clipping"),
    ("black_rate", 0.91, "blackness"),
    ("frozen_rate", 0.95, "freezing"),
]
BELOW = [("audio_duration_s", 3.7, "duration_gap"), ("start_offset_s", -0.25, "start_offset")]


@pytest.mark.parametrize("limits", [ABOVE, BELOW], ids=["above", "below"])
def test_limits_warn_for_some_segments_and_stop_for_most(
    limits: list[tuple[str, float, str]],
) -> None:
    few, some, most = clean_index(), clean_index(), clean_index()
    for place, (column, value, _) in enumerate(limits):
        few.loc[place : place + 2, column] = value  # 37 of 40 are right, 36 are asked
        some.loc[place : place + 4, column] = value
        most.loc[place : place + 20, column] = value
    assert failures(few) == {}
    warned = failures(some)
    assert set(warned) == {f"{name}_mostly" for _, _, name in limits}
    for place, (_, _, name) in enumerate(limits):
        rule = warned[f"{name}_mostly"]
        assert (rule["severity"], rule["judged"]) == ("warning", NUM_SEGMENTS)
        assert rule["observed"] == pytest.approx(35 / 40)
        rows = some.loc[place : place + 4]
        for example, row in zip(rule["examples"], rows.itertuples(), strict=True):
            assert example.startswith(f"{row.key} demo/{row.video_id}: ")
    stopped = failures(most)
    expected = {f"{name}_mostly": "warning" for _, _, name in limits}
    expected |= {name: "critical" for _, _, name in limits}
    assert {name: rule["severity"] for name, rule in stopped.items()} == expected


def test_an_example_shows_the_value() -> None:
    index = clean_index()
    index.loc[:4, "silent_rate"] = 0.9712345
    assert failures(index)["silence_mostly"]["examples"][0].endswith("video 0.mp4: 0.9712")


# Rows, columns and new values of the clean corpus; the critical rule that this breaks, the rows
# that it must name, and the value that it must show of them.
BREAKS: list[tuple[Any, Any, Any, str, list[int], str]] = [
    (3, "key", f"{1:016x}_0000", "key_unique", [2, 3], ""),
    (3, "key", None, "key_present", [3], ""),
    (3, "frame_rate_hz", 10.0, "frame_rate_constant", [3], ": 5"),
    (3, "height_px", 48, "short_side_constant", [3], ": 16"),
    (2, "source_digest", f"{19:032x}", "leakage_of_files", [2, 38, 39], ": 2"),
    (1, ["split", "source_digest"], ["test", "of that name"], "leakage_of_videos", [0, 1], ": 2"),
    ([0, 1], "split", "dev", "split_known", [0, 1], ": dev"),
]


@pytest.mark.parametrize(("rows", "columns", "values", "name", "named", "shown"), BREAKS)
def test_one_broken_segment_stops_the_pipeline_and_is_named(
    rows: Any, columns: Any, values: Any, name: str, named: list[int], shown: str
) -> None:
    index = clean_index()
    index.loc[rows, columns] = values
    failed = failures(index)
    assert list(failed) == [name]
    assert failed[name]["severity"] == "critical"
    expected = [f"{index['key'][n]} demo/{index['video_id'][n]}{shown}" for n in named]
    assert failed[name]["examples"] == expected


def test_the_same_video_id_in_two_sources_is_no_leakage() -> None:
    index = clean_index()
    index.loc[38:, ["source", "video_id"]] = ["inbox", "video 0.mp4"]
    assert failures(index) == {}


def test_a_split_with_too_few_segments_is_named() -> None:
    index = clean_index()
    index = index[index["split"] != "validation"]
    failed = failures(index)
    assert list(failed) == ["num_segments_per_split"]
    assert failed["num_segments_per_split"]["examples"] == ["validation: 0"]


def test_too_many_inputs_in_quarantine_are_named() -> None:
    assert failures(corpus(clean_index(), num_refused=5)) == {}  # 5 of 25
    failed = failures(corpus(clean_index(), num_refused=6))
    assert list(failed) == ["quarantined"]
    assert failed["quarantined"]["examples"] == [f"demo/{n}.mp4: cut" for n in range(5)]
    assert failed["quarantined"]["observed"] == pytest.approx(20 / 26, abs=1e-5)


def test_missing_items_of_an_official_list_are_counted_but_stop_nothing() -> None:
    reasons = ["missing: no media file is called x", "cut"]
    rows = [
        {"source": "audioset", "video_id": f"{reason} {n}", "reason": reason}
        for reason, size in zip(reasons, (1000, 5), strict=True)
        for n in range(size)
    ]
    judged = dataclasses.replace(corpus(clean_index()), quarantine=pd.DataFrame(rows, dtype=object))
    verdict, page = validate_corpus(judged, PARAMS)  # 5 of 25 are refused
    assert verdict["passed"]
    assert (verdict["num_quarantined"], verdict["num_missing"]) == (1005, 1000)
    assert "1005 more in quarantine, of which 1000 are missing" in " ".join(page.split())
    rule = next(rule for rule in verdict["expectations"] if rule["name"] == "quarantined")
    assert (rule["observed"], rule["judged"]) == (0.8, 25)
    assert not any("missing" in example for example in rule["examples"])


def test_an_empty_corpus_fails() -> None:
    params = PARAMS.model_copy(update={"min_segments_per_split": 0})
    failed = failures(clean_index()[:0], params)
    assert list(failed) == ["num_segments"]
    assert failed["num_segments"]["severity"] == "critical"
    assert failed["num_segments"]["observed"] == 0


@pytest.mark.parametrize("column", REQUIRED_COLUMNS[::5])
def test_a_missing_column_is_critical_and_named(column: str) -> None:
    failed = failures(clean_index().drop(columns=column))
    assert list(failed) == ["columns"]
    assert failed["columns"]["severity"] == "critical"
    assert failed["columns"]["examples"] == [column]


HEARD = ["audio_duration_s", "start_offset_s", "silent_rate", "clipped_rate", "speech_rate"]
TOLD = ["caption_words_per_second", "caption_offset_s", "caption_score"]
SEEN = ["video_duration_s", "start_offset_s", "black_rate", "frozen_rate", "frame_rate_hz"]


@pytest.mark.parametrize(
    ("columns", "facts"),
    [
        ([*HEARD, *TOLD[1:]], {"has_audio": False, "num_captions": 0}),
        (TOLD, {"num_captions": 0}),
        ([*SEEN, TOLD[0]], {"has_video": False, "width_px": 0, "height_px": 0}),
    ],
    ids=["no sound", "no text", "sound only"],
)
@pytest.mark.parametrize("empty", [np.nan, None])
def test_a_corpus_without_a_modality_passes(
    columns: list[str], facts: dict[str, Any], empty: float | None
) -> None:
    index = clean_index()
    index[columns] = empty
    assert failures(index.assign(**facts)) == {}


def test_a_rule_that_cannot_be_computed_is_critical() -> None:
    index = clean_index()
    index["silent_rate"] = "loud"
    failed = failures(index)
    assert {name: rule["severity"] for name, rule in failed.items()} == {
        "silence": "critical",
        "silence_mostly": "critical",
    }
    assert "same type" in failed["silence"]["error"]
