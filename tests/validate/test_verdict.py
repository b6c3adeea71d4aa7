"""Each rule fails for exactly the corpus that breaks it, and the page shows what did."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.validate.clean import (
    NUM_SEGMENTS,
    PARAMS,
    clean_index,
    corpus,
    duplicates,
    failures,
    quarantine,
)
from vatt.validate.tables import DUPLICATE_COLUMNS, REQUIRED_COLUMNS, Corpus, read_corpus
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


CLEAN = clean_index()
LIKE = "like demo/video 19.mp4 (test) for 7 s"
# A corpus; the one rule that it breaks, its severity, and what it must name.
SINGLE: dict[str, tuple[Corpus, str, str, list[str]]] = {
    "a split with few segments": (
        *(corpus(CLEAN[CLEAN["split"] != "validation"]), "num_segments_per_split", "critical"),
        ["validation: 0"],
    ),
    "many inputs in quarantine": (
        *(corpus(CLEAN, num_refused=6), "quarantined", "critical"),
        [f"demo/{n}.mp4: cut" for n in range(5)],
    ),
    "near duplicates": (
        *(corpus(CLEAN, num_alike=3), "near_duplicates", "warning"),
        [f"demo/video {n}.mp4: picture {LIKE}; sound {LIKE}" for n in range(3)],
    ),
} | {
    f"no column {name}": (corpus(CLEAN.drop(columns=name)), "columns", "critical", [name])
    for name in REQUIRED_COLUMNS[::5]
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_rule_fails_and_names_what_breaks_it(name: str) -> None:
    judged, rule, severity, examples = SINGLE[name]
    failed = failures(judged)
    assert list(failed) == [rule]
    assert (failed[rule]["severity"], failed[rule]["examples"]) == (severity, examples)


def test_what_is_just_within_the_limits_passes() -> None:
    assert failures(corpus(CLEAN, num_refused=5, num_alike=2)) == {}  # 5 of 25 and 2 of 20
    refused = failures(corpus(CLEAN, num_refused=6))["quarantined"]
    assert refused["observed"] == pytest.approx(20 / 26, abs=1e-5)


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


def test_captions_that_do_not_fit_are_judged_by_video() -> None:
    few, some, most = clean_index(), clean_index(), clean_index()
    few.loc[:3, "caption_score"] = 0.1234567  # 2 of 20 videos
    some.loc[:9, "caption_score"] = 0.1234567
    most.loc[:21, "caption_score"] = 0.1234567
    assert failures(few) == {}
    warned = failures(some)
    assert list(warned) == ["captions_fit_mostly"]
    assert warned["captions_fit_mostly"]["examples"] == [
        f"demo/video {n}.mp4: 0.1235" for n in range(5)
    ]
    assert warned["captions_fit_mostly"]["judged"] == 20
    assert set(failures(most)) == {"captions_fit_mostly", "captions_fit"}


@pytest.mark.parametrize("offset_s", [1.1, -1.1])
def test_captions_that_are_early_or_late_are_judged_by_video(offset_s: float) -> None:
    index = clean_index()
    index.loc[:21, "caption_offset_s"] = offset_s
    failed = failures(index)
    assert set(failed) == {"captions_in_time_mostly", "captions_in_time"}
    assert failed["captions_in_time"]["examples"][0] == "demo/video 0.mp4: 1.1"


def test_an_offset_without_a_score_is_not_judged() -> None:
    index = clean_index()
    index.loc[:29, ["caption_offset_s", "caption_score"]] = [9.0, np.nan]
    assert failures(index) == {}


def test_captions_where_nobody_speaks_are_a_warning_by_video() -> None:
    index = clean_index()
    index.loc[:6, "speech_rate"] = 0.0  # three videos and a half; the half is spoken
    failed = failures(index)
    assert list(failed) == ["captions_spoken"]
    assert failed["captions_spoken"]["severity"] == "warning"
    assert failed["captions_spoken"]["examples"] == [f"demo/video {n}.mp4: 0" for n in range(3)]
    index.loc[:6, "num_captions"] = 0
    assert failures(index) == {}


def test_what_does_not_exist_is_shown_as_not_judged() -> None:
    index = clean_index()
    index[["caption_offset_s", "caption_score"]] = np.nan
    verdict, page = validate_corpus(corpus(index), PARAMS)
    rules = {rule["name"]: rule for rule in verdict["expectations"]}
    assert rules["captions_fit"]["judged"] == 0
    assert page.count("nothing to judge") == 4


def test_the_page_is_the_same_every_time_and_needs_no_network() -> None:
    index = clean_index()
    index.loc[3:9, "silent_rate"] = 1.0
    judged = corpus(index, num_refused=9)
    pages = [validate_corpus(judged, PARAMS)[1] for _ in range(2)]
    assert pages[0] == pages[1]
    assert not re.findall(r"https?://|<script|<link", pages[0])
    assert "failed: the pipeline stops here" in pages[0]
    assert index["key"][3] in pages[0]
    assert "cut" in pages[0]  # the reason of the quarantine


def test_names_and_reasons_of_a_corpus_are_text_on_the_page() -> None:
    refused = quarantine(9).assign(video_id="<script>1</script>.mp4", reason="no <b>video</b> & no")
    refused["source"] = [f"s{n}" for n in range(9)]
    index = clean_index()
    index.loc[:1, "split"] = "<i>dev</i>"
    _, page = validate_corpus(Corpus(index, refused, duplicates(0)), PARAMS)
    assert not re.findall("<script|<b>|<i>", page)
    assert "no &lt;b&gt;video&lt;/b&gt; &amp; no" in page


def test_lists_may_be_empty_and_keep_odd_names(tmp_path: Path) -> None:
    clean_index().to_parquet(tmp_path / "index.parquet")
    name = "a\u2028b\u0085 \U0001f600.mp4"
    row = {"source": "inbox", "video_id": name, "path": None, "reason": "empty"}
    text = json.dumps(row, ensure_ascii=False) + "\n"
    (tmp_path / "quarantine.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "duplicates.jsonl").write_text("", encoding="utf-8")
    judged = read_corpus(tmp_path)
    assert sorted(judged.index.columns) == sorted(REQUIRED_COLUMNS)
    assert judged.quarantine["video_id"].tolist() == [name]
    assert list(judged.quarantine.columns) == ["source", "video_id", "reason"]
    assert (list(judged.duplicates.columns), len(judged.duplicates)) == (DUPLICATE_COLUMNS, 0)
