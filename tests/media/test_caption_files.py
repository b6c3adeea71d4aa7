"""Caption files find their media file by name."""

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatt.media.caption_files import match_captions


def test_the_plain_name_then_english_then_other_languages() -> None:
    captions = ["a/x.de.vtt", "a/x.en-GB.srt", "a/x.en.vtt", "a/x.csv", "a/x.srt", "x.vtt"]
    assert match_captions(["a/x.mp4"], captions) == {
        "a/x.mp4": ["a/x.srt", "a/x.csv", "a/x.en.vtt", "a/x.en-GB.srt", "a/x.de.vtt"]
    }


@pytest.mark.parametrize(
    "english",
    [
        "en",
        "eng",
        "EN",
        "en-US",
        "en-orig",
        "Eng",
        "en_GB",
        "en.sdh",
        "ENG.cc",
        "en.hi",
        "sdh.en",
        "hi.en",
    ],
)
def test_codes_of_english(english: str) -> None:
    captions = ["x.deu.vtt", "x.hi.vtt", f"x.{english}.srt", "x.zh-Hans.vtt", "x.en.forced.vtt"]
    captions += ["x.pt_BR.srt", "x.DEU.sdh.srt", "x.es-419.vtt", "x.cmn-Hans-CN.srt"]
    found = match_captions(["x.mp4"], captions)["x.mp4"]
    assert found[0] == f"x.{english}.srt"
    assert set(found) == set(captions)
    assert found[-1] == "x.en.forced.vtt"  # only what is said in another language


def test_two_formats_of_a_video_do_not_share_captions() -> None:
    assert match_captions(["x.mp4", "x.webm", "y.mp4"], ["x.VTT"]) == {"x.mp4": ["x.VTT"]}


def test_other_files_beside_a_video_are_not_its_captions() -> None:
    others = ["x.info.json", "xy.vtt", "b/x.vtt", "x.part1.vtt", "x.two.en.vtt", "x.en.de.vtt"]
    assert match_captions(["x.mp4"], others) == {}


def test_captions_named_after_the_whole_file_are_its_own() -> None:
    media, captions = ["x.mp4", "x.webm", "x.mp4.mkv"], ["x.mp4.srt", "x.webm.en.vtt", "x.vtt"]
    assert match_captions(media, captions) == {
        "x.mp4": ["x.vtt"],
        "x.mp4.mkv": ["x.mp4.srt"],
        "x.webm": ["x.webm.en.vtt"],
    }


def test_a_caption_file_belongs_to_the_longest_stem() -> None:
    media = ["talk.en.mp4", "talk.mp4", "talk.two.mp4", "v1.5.mp4"]
    captions = ["talk.en.vtt", "talk.two.vtt", "talk.two.de.vtt", "v1.5.vtt", "v1.vtt"]
    assert match_captions(media, captions) == {
        "talk.en.mp4": ["talk.en.vtt"],
        "talk.two.mp4": ["talk.two.vtt", "talk.two.de.vtt"],
        "v1.5.mp4": ["v1.5.vtt"],
    }


def test_accents_in_either_form_are_one_name() -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    matches = match_captions([f"{apart}.mp4"], [f"{composed}.vtt", f"{composed}.en.srt"])
    assert matches == {f"{apart}.mp4": [f"{composed}.vtt", f"{composed}.en.srt"]}


STEM = st.lists(st.sampled_from(["a", "b", "en", "two", "DE", "é", "é", "1.5"]), max_size=3)
NAMES = st.lists(STEM.map(lambda parts: ".".join(["x", *parts])), max_size=8)


@given(NAMES, NAMES)
def test_a_caption_file_belongs_to_one_media_file_at_most(
    media: list[str], texts: list[str]
) -> None:
    matches = match_captions([f"{stem}.mp4" for stem in media], {f"{stem}.vtt" for stem in texts})
    owned = Counter(name for files in matches.values() for name in files)
    assert set(owned.values()) <= {1}
    for stem in set(media) & set(texts):
        assert f"{stem}.vtt" in owned
