"""Rules that judge videos: captions against speech, and near-duplicates."""

import numpy as np
import pytest

from tests.validate.clean import clean_index, corpus, failures


def test_captions_that_do_not_fit_are_judged_by_video() -> None:
    few, some, most = clean_index(), clean_index(), clean_index()
    few.loc[:3, "caption_score"] = 0.1  # 2 of 20 videos
    some.loc[:9, "caption_score"] = 0.1
    most.loc[:21, "caption_score"] = 0.1
    assert failures(few) == {}
    warned = failures(some)
    assert list(warned) == ["captions_fit_mostly"]
    assert warned["captions_fit_mostly"]["examples"] == [
        f"demo/video {n}.mp4: 0.1" for n in range(5)
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


def test_near_duplicates_are_named_with_what_they_are_like() -> None:
    assert failures(corpus(clean_index(), num_alike=2)) == {}
    failed = failures(corpus(clean_index(), num_alike=3))
    assert list(failed) == ["near_duplicates"]
    assert failed["near_duplicates"]["examples"][2] == (
        "demo/video 2.mp4: picture like demo/video 19.mp4 (test) for 7 s; "
        "sound like demo/video 19.mp4 (test) for 7 s"
    )
