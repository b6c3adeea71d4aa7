"""Each rule fails for exactly the corpus that breaks it, and names the segments that do."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vatt.data.validation.expectations import REQUIRED_COLUMNS
from vatt.data.validation.verdict import read_quarantine, validate_corpus
from vatt.params import ValidateParams

PARAMS = ValidateParams(
    min_segments=10,
    min_segments_per_split=4,
    max_duration_gap_s=0.25,
    max_start_offset_s=0.2,
    max_words_per_second=8.0,
    max_silent_rate=0.95,
    max_black_rate=0.9,
    max_quarantined_rate=0.2,
    mostly_warning=0.9,
    mostly_critical=0.5,
)
NUM_SEGMENTS = 40


def clean_index() -> pd.DataFrame:
    """20 videos of two segments, that keep every rule."""
    segments = np.arange(NUM_SEGMENTS)
    videos = segments // 2
    splits = np.array(["train"] * 14 + ["validation"] * 3 + ["test"] * 3)
    return pd.DataFrame(
        {
            "key": [f"{video:016x}_{segment % 2:04d}" for segment, video in enumerate(videos)],
            "source": "demo",
            "video_id": [f"video {video}.mp4" for video in videos],
            "split": splits[videos],
            "source_digest": [f"{video:032x}" for video in videos],
            "has_video": True,
            "frame_rate_hz": 5.0,
            "width_px": 112,
            "height_px": 64,
            "video_duration_s": 4.0,
            "audio_duration_s": 4.01,
            "start_offset_s": -0.02,
            "caption_words_per_second": 2.5,
            "captions_outside": 0,
            "silent_rate": 0.1,
            "black_rate": 0.0,
        }
    )


def quarantine(num_inputs: int) -> pd.DataFrame:
    rows = [{"source": "demo", "video_id": f"{n}.mp4", "reason": "cut"} for n in range(num_inputs)]
    return pd.DataFrame(rows, columns=["source", "video_id", "reason"], dtype=object)


def failures(
    index: pd.DataFrame, refused: pd.DataFrame | None = None, params: ValidateParams = PARAMS
) -> dict[str, Any]:
    """Return the rules that fail, by name, after checking that `passed` agrees with them."""
    verdict, _ = validate_corpus(index, quarantine(0) if refused is None else refused, params)
    json.dumps(verdict, allow_nan=False)
    failed = {rule["name"]: rule for rule in verdict["expectations"] if not rule["success"]}
    assert verdict["passed"] == all(rule["severity"] == "warning" for rule in failed.values())
    return failed


def test_a_clean_corpus_passes_every_rule() -> None:
    verdict, _ = validate_corpus(clean_index(), quarantine(2), PARAMS)
    assert verdict["passed"]
    assert (verdict["num_segments"], verdict["num_quarantined"]) == (NUM_SEGMENTS, 2)
    names = [rule["name"] for rule in verdict["expectations"]]
    assert len(set(names)) == len(names) == 23


# Column, the value of a broken segment, the rule it breaks.
LIMITS = [
    ("audio_duration_s", 4.3, "duration_gap"),
    ("audio_duration_s", 3.7, "duration_gap"),
    ("start_offset_s", 0.25, "start_offset"),
    ("start_offset_s", -0.25, "start_offset"),
    ("captions_outside", 1, "captions_inside"),
    ("caption_words_per_second", 8.5, "speech_rate"),
    ("silent_rate", 0.96, "silence"),
    ("black_rate", 0.91, "blackness"),
]


@pytest.mark.parametrize(("column", "value", "name"), LIMITS)
def test_a_limit_warns_for_some_segments_and_stops_for_most(
    column: str, value: float, name: str
) -> None:
    few, some, most = clean_index(), clean_index(), clean_index()
    few.loc[5:7, column] = value  # 37 of 40 are right, 36 are asked
    some.loc[5:9, column] = value
    most.loc[5:25, column] = value
    assert failures(few) == {}
    warned = failures(some)
    assert {rule: warned[rule]["severity"] for rule in warned} == {f"{name}_mostly": "warning"}
    assert warned[f"{name}_mostly"]["examples"] == some.loc[5:9, "key"].tolist()
    assert warned[f"{name}_mostly"]["observed"] == pytest.approx(35 / 40)
    stopped = failures(most)
    assert {rule: stopped[rule]["severity"] for rule in stopped} == {
        f"{name}_mostly": "warning",
        name: "critical",
    }


def change(row: int, column: str, value: Any) -> Callable[[pd.DataFrame], None]:
    def apply(index: pd.DataFrame) -> None:
        index.loc[row, column] = value

    return apply


# A change to the clean corpus, the critical rule it breaks, the rows it must name.
BREAKS = [
    (change(3, "key", f"{1:016x}_0000"), "key_unique", [2, 3]),
    (change(3, "key", None), "key_present", [3]),
    (change(3, "frame_rate_hz", 10.0), "frame_rate_constant", [3]),
    (change(3, "height_px", 48), "short_side_constant", [3]),
    (change(2, "source_digest", f"{19:032x}"), "leakage_of_files", [2, 38, 39]),
]


@pytest.mark.parametrize(("apply", "name", "rows"), BREAKS)
def test_one_broken_segment_stops_the_pipeline(
    apply: Callable[[pd.DataFrame], None], name: str, rows: list[int]
) -> None:
    index = clean_index()
    apply(index)
    failed = failures(index)
    assert list(failed) == [name]
    assert failed[name]["severity"] == "critical"
    assert failed[name]["examples"] == [str(index["key"][row]) for row in rows]


def test_a_video_in_two_splits_is_leakage() -> None:
    index = clean_index()
    index.loc[1, ["split", "source_digest"]] = ["test", "another file of that name"]
    failed = failures(index)
    assert list(failed) == ["leakage_of_videos"]
    assert failed["leakage_of_videos"]["examples"] == index["key"][:2].tolist()


def test_the_same_video_id_in_two_sources_is_no_leakage() -> None:
    index = clean_index()
    index.loc[38:, ["source", "video_id"]] = ["inbox", "video 0.mp4"]
    assert failures(index) == {}


def test_an_unknown_split_is_named() -> None:
    index = clean_index()
    index.loc[:1, "split"] = "dev"
    failed = failures(index)
    assert list(failed) == ["split_known"]
    assert failed["split_known"]["examples"] == index["key"][:2].tolist()


def test_a_split_with_too_few_segments_is_named() -> None:
    index = clean_index()
    index = index[index["split"] != "validation"]
    failed = failures(index)
    assert list(failed) == ["num_segments_per_split"]
    assert failed["num_segments_per_split"]["examples"] == ["validation"]


def test_too_many_inputs_in_quarantine_are_named() -> None:
    assert failures(clean_index(), quarantine(5)) == {}  # 5 of 25
    failed = failures(clean_index(), quarantine(6))
    assert list(failed) == ["quarantined"]
    assert failed["quarantined"]["examples"] == [f"demo/{n}.mp4" for n in range(5)]
    assert failed["quarantined"]["observed"] == pytest.approx(20 / 26, abs=1e-5)


def test_an_empty_corpus_fails() -> None:
    params = PARAMS.model_copy(update={"min_segments_per_split": 0})
    failed = failures(clean_index()[:0], params=params)
    assert list(failed) == ["num_segments"]
    assert failed["num_segments"]["severity"] == "critical"
    assert failed["num_segments"]["observed"] == 0


@pytest.mark.parametrize("column", REQUIRED_COLUMNS[::5])
def test_a_missing_column_is_critical_and_named(column: str) -> None:
    failed = failures(clean_index().drop(columns=column))
    assert list(failed) == ["columns"]
    assert failed["columns"]["severity"] == "critical"
    assert failed["columns"]["examples"] == [column]


@pytest.mark.parametrize(
    "columns",
    [
        ["audio_duration_s", "start_offset_s", "silent_rate"],
        ["caption_words_per_second"],
        [
            "video_duration_s",
            "start_offset_s",
            "black_rate",
            "frame_rate_hz",
            "caption_words_per_second",
        ],
    ],
    ids=["no sound", "no text", "sound only"],
)
@pytest.mark.parametrize("empty", [np.nan, None])
def test_a_corpus_without_a_modality_passes(columns: list[str], empty: float | None) -> None:
    index = clean_index()
    index[columns] = empty
    if "black_rate" in columns:
        index[["has_video", "width_px", "height_px"]] = [False, 0, 0]
    assert failures(index) == {}


def test_a_rule_that_cannot_be_computed_is_critical() -> None:
    index = clean_index()
    index["silent_rate"] = "loud"
    failed = failures(index)
    assert {name: rule["severity"] for name, rule in failed.items()} == {
        "silence": "critical",
        "silence_mostly": "critical",
    }
    assert "same type" in failed["silence"]["error"]


def test_the_page_is_the_same_every_time_and_needs_no_network() -> None:
    index = clean_index()
    index.loc[3:9, "silent_rate"] = 1.0
    pages = [validate_corpus(index, quarantine(9), PARAMS)[1] for _ in range(2)]
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
    _, page = validate_corpus(index, refused, PARAMS)
    assert not re.findall("<script|<b>|<i>", page)
    assert "no &lt;b&gt;video&lt;/b&gt; &amp; no" in page


def test_a_quarantine_list_may_be_empty_and_keeps_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    path.write_text("", encoding="utf-8")
    assert list(read_quarantine(path).columns) == ["source", "video_id", "reason"]
    assert len(read_quarantine(path)) == 0
    row = {
        "source": "inbox",
        "video_id": "a\u2028b\u0085 \U0001f600.mp4",
        "path": None,
        "reason": "empty",
    }
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_quarantine(path)["video_id"].tolist() == [row["video_id"]]
