"""Captions of speech recognisers: each word once, no overlaps, and nothing else changed."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatt.media.captions import Caption, read_captions, unroll
from vatt.media.timed_lines import Cue

# As automatic captions of video sites are: a line scrolls up when the next one begins, and stays
# alone for 10 ms.
AUTOMATIC = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.389 align:start position:0%
{blank}
hello<00:00:00.480><c> and</c><00:00:00.640><c> welcome</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
hello and welcome
{blank}

00:00:02.399 --> 00:00:04.630 align:start position:0%
hello and welcome
to<00:00:02.560><c> my</c><00:00:02.879><c> kitchen</c>

00:00:04.630 --> 00:00:04.640 align:start position:0%
to my kitchen
{blank}

00:00:04.640 --> 00:00:06.500 align:start position:0%
to my kitchen
my<00:00:05.000><c> kitchen</c><00:00:05.300><c> is</c><00:00:05.500><c> small</c>

00:00:09.000 --> 00:00:10.000 align:start position:0%
my kitchen is small
""".format(blank=" ")


def test_automatic_captions_say_each_word_once(tmp_path: Path) -> None:
    path = tmp_path / "auto.vtt"
    path.write_text(AUTOMATIC, encoding="utf-8")
    assert read_captions(path).captions == [
        Caption(0.16, 2.399, "hello and welcome"),
        Caption(2.399, 4.64, "to my kitchen"),
        Caption(4.64, 6.5, "my kitchen is small"),
        Caption(9.0, 10.0, "my kitchen is small"),  # much later: said again
    ]


def test_overlapping_captions_of_howto100m_are_parted(tmp_path: Path) -> None:
    columns = {
        "start": [1.0, 3.0, 5.5, 7.0, 30.0],
        "end": [5.5, 7.0, 9.0, 11.0, 32.0],
        "text": [
            "first you take a pan",
            "take a pan and some oil",
            "some oil of olives",
            "of olives",
            "done",
        ],
    }
    path = tmp_path / "caption.json"
    path.write_text(json.dumps(columns), encoding="utf-8")
    assert read_captions(path).captions == [
        Caption(1.0, 3.0, "first you take a pan"),
        Caption(3.0, 5.5, "and some oil"),
        # Two equal words can be chance; all words of the caption before would not be.
        Caption(5.5, 7.0, "some oil of olives"),
        Caption(7.0, 11.0, "of olives"),
        Caption(30.0, 32.0, "done"),
    ]


LETTERS = ["one a", "two b", "three c", "four d"]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([("we",), ("we cook",), ("we cook rice",)], ["we", "cook", "rice"]),
        ([tuple(LETTERS[max(0, n - 2) : n + 1]) for n in range(4)], LETTERS),
    ],
    ids=["growing word by word", "three lines that scroll"],
)
def test_each_word_and_line_is_said_once(shown: list[tuple[str, ...]], expected: list[str]) -> None:
    cues = [Cue(n, n + 1, lines) for n, lines in enumerate(shown)]
    assert [cue.lines for cue in unroll(cues)] == [(line,) for line in expected]


def test_a_title_above_speech_keeps_its_time_and_people_may_speak_at_once() -> None:
    cues = [
        Cue(0.0, 20.0, ("THE TITLE",)),
        Cue(1.0, 3.0, ("no",)),
        Cue(4.0, 6.0, ("you go",)),
        Cue(4.0, 6.0, ("I stay",)),
        Cue(5.0, 7.0, ("I stay here",)),
    ]
    assert [(cue.start_s, cue.end_s, cue.lines[0]) for cue in unroll(cues)] == [
        (0.0, 20.0, "THE TITLE"),
        (1.0, 3.0, "no"),
        (4.0, 5.0, "you go"),
        (4.0, 5.0, "I stay"),
        (5.0, 7.0, "here"),
    ]


words = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" ".join)
times = st.tuples(st.integers(0, 30), st.integers(1, 10))


@given(st.lists(st.tuples(times, st.lists(words, min_size=1, max_size=3).map(tuple))))
def test_no_caption_is_moved_or_overlaps_the_next(
    rows: list[tuple[tuple[int, int], tuple[str, ...]]],
) -> None:
    cues = sorted(
        (Cue(float(start), float(start + length), lines) for (start, length), lines in rows),
        key=lambda cue: (cue.start_s, cue.end_s),
    )
    found = unroll(cues)
    assert {cue.start_s for cue in found} <= {cue.start_s for cue in cues}
    assert found == sorted(found, key=lambda cue: (cue.start_s, cue.end_s))
    assert len(found) <= len(cues)
    assert bool(found) == bool(cues)
    for earlier, later in pairwise(found):
        assert earlier.lines
        assert earlier.start_s < earlier.end_s
        if earlier.start_s < later.start_s < earlier.end_s:
            assert earlier.end_s > later.end_s  # a title


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=5), max_size=8))
def test_captions_apart_in_time_are_left_as_they_are(texts: list[list[int]]) -> None:
    cues = [Cue(n, n + 0.5, (" ".join(map(str, text)),)) for n, text in enumerate(texts)]
    assert unroll(cues) == cues
