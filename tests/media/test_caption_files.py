"""Caption files find their media file by name."""

from vatt.media.captions import captions_format, match_captions


def test_the_plain_name_then_english_then_other_languages() -> None:
    captions = ["a/x.de.vtt", "a/x.en-GB.srt", "a/x.en.vtt", "a/x.csv", "a/x.srt", "x.vtt"]
    assert match_captions(["a/x.mp4"], captions) == {
        "a/x.mp4": ["a/x.srt", "a/x.csv", "a/x.en.vtt", "a/x.en-GB.srt", "a/x.de.vtt"]
    }


def test_two_formats_of_a_video_share_captions() -> None:
    assert match_captions(["x.mp4", "x.webm", "y.mp4"], ["x.VTT"]) == {
        "x.mp4": ["x.VTT"],
        "x.webm": ["x.VTT"],
    }


def test_other_files_beside_a_video_are_not_its_captions() -> None:
    assert match_captions(["x.mp4"], ["x.info.json", "xy.vtt", "b/x.vtt", "x.part1.vtt"]) == {}


def test_a_dot_in_the_name_is_no_language() -> None:
    matches = match_captions(["talk.en.mp4", "v1.5.mp4"], ["talk.en.vtt", "v1.5.vtt", "v1.vtt"])
    assert matches == {"talk.en.mp4": ["talk.en.vtt"], "v1.5.mp4": ["v1.5.vtt"]}


def test_formats() -> None:
    assert captions_format("a/b.JSON") == "howto100m_json"
    assert captions_format("a.srt") == "srt"
    assert captions_format("a.txt") is None
