"""SRT and WebVTT: what is a line of times, what is text, and what players do not show."""

from pathlib import Path

import pytest

from vatt.media.caption_formats import read_cues
from vatt.media.captions import Caption, read_captions
from vatt.media.timed_lines import Cue

A, B = "00:00:00,000 --> 00:00:02,000", "00:00:02,000 --> 00:00:04,000"

SPELLINGS_OF_TIMES = [
    *("00:00:00,000 –> 00:00:02,000", "00:00:00,000 -> 00:00:02,000", "00:00,0 → 00:02,0"),
    *("00:00:00,000 ==> 00:00:02,000", "00:00:00.000-->00:00:02.000", "00:00,000 ---> 00:02,000"),
    *("00:00:00,000 -- > 00:00:02,000", "00:00:00,000 −−> 00:00:02,000"),
    *("00:00:00,000 --&gt; 00:00:02,000", "00:00:00;000 --> 00:00:02;000"),
    *("00: 00: 00, 000 --> 00: 00: 02, 000", "00:00:00.000000 --> 00:00:02.000000"),
    "\u00a000:00:00,000\u00a0-->\u00a000:00:02,000 align:start position:0%",
    "00:00:00.000 --> 00:00:02.000 line: 10% size:50 %",
    *("００：００：００，０００ －－＞ ００：００：０２，０００", "٠٠:٠٠:٠٠,٠٠٠ --> ٠٠:٠٠:٠٢,٠٠٠"),
    *("00:00:00,000—>00:00:02,000", "-00:00:01,000 --> 00:00:02,000"),
]


@pytest.mark.parametrize("times", SPELLINGS_OF_TIMES)
def test_times_as_people_write_them(tmp_path: Path, times: str) -> None:
    path = tmp_path / "a.srt"
    path.write_text(f"1\n{times}\nalpha ５！\n\n2\n{B}\nbravo\n")
    track = read_captions(path)
    assert track == ([Caption(0.0, 2.0, "alpha ５！"), Caption(2.0, 4.0, "bravo")], None)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (A.replace("-->", "-"), B.replace("-->", "-")),
        *(("0.0 --> 2.0", "2.0 --> 4.0"), ("0:00 ---> 0:02", "0:02 ---> 0:04")),
    ],
)
def test_what_is_less_than_full_times_and_an_arrow_counts_where_there_is_no_more(
    first: str, second: str
) -> None:
    content = f"1\n{first}\nalpha\n\n2\n{second}\nbravo\n"
    cues, notes = read_cues(content.encode(), ".srt")
    assert (cues, notes) == ([Cue(0.0, 2.0, ("alpha",)), Cue(2.0, 4.0, ("bravo",))], [])


@pytest.mark.parametrize(
    "text",
    [
        *("10:30 - 12:00", "5,0 -> 6,0 apples", "1 -> 2", "--> here", "a 00:01 --> 00:02"),
        *("00:10:00.000 - 00:20:00.000", "3:4 --> goal for us", "{Y: yes}", "{p: hello} there"),
        *("{s: whispers} come in", "{f: one two}", "if <p and q> hold <div by zero> then"),
        *("1,5 -> 2,5", "3:1 => 4:2", "10.5 --> 11.5", "2,000 => 3,000", "12:30 -> 13:45 today"),
    ],
)
def test_text_that_looks_like_times_is_text(text: str) -> None:
    cues, notes = read_cues(f"1\n{A}\n{text}\n".encode(), ".srt")
    assert (cues, notes) == ([Cue(0.0, 2.0, (text,))], [])


@pytest.mark.parametrize("mark", [r"{\an8}", "{y:i}", "{Y:b,i}", "{c:$0000FF}", "{s:20}"])
def test_marks_of_players_are_no_text(mark: str) -> None:
    cues, _ = read_cues(f"1\n{A}\n{mark}alpha\n".encode(), ".srt")
    assert cues == [Cue(0.0, 2.0, ("alpha",))]


def test_the_arrow_of_the_format_stands_between_any_clock_times() -> None:
    cues, _ = read_cues(f"1\n{A}\nalpha\n\n2\n0:02 --> 0:04\nbravo\n".encode(), ".srt")
    assert cues == [Cue(0.0, 2.0, ("alpha",)), Cue(2.0, 4.0, ("bravo",))]


def test_what_follows_times_is_a_setting_by_its_name_only() -> None:
    vtt = "WEBVTT\n\n00:00.000 --> 00:02.000 Anna:Hello\n\n00:02.000 --> 00:04.000 line:0\nyes\n"
    assert [cue.lines for cue in read_cues(vtt.encode(), ".vtt")[0]] == [("Anna:Hello",), ("yes",)]


def test_a_number_that_ends_a_text_is_kept() -> None:
    cues, _ = read_cues(f"1\n{A}\nin the year\n1984\n\n{B}\nyes\n".encode(), ".srt")
    assert [cue.lines for cue in cues] == [("in the year", "1984"), ("yes",)]
