"""Caption files become timed texts: whole files, odd ones and broken ones."""

import csv
import json
import math
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vatt.media.caption_formats import READERS
from vatt.media.captions import Caption, CaptionTrack, read_captions
from vatt.media.encodings import CaptionError

FORMATS = [suffix.removeprefix(".") for suffix in READERS]


def read(folder: Path, suffix: str, content: str | bytes) -> CaptionTrack:
    path = folder / f"captions.{suffix}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_captions(path)


VTT = """WEBVTT - a title

STYLE
::cue { color: yellow }

NOTE 00:00:09.000 and 00:00:10.000 are times in a note
still the note

00:01.500 --> 00:00:02.25 line:80% align:start
<v Ann>Fish &amp; <c.loud>chips</c></v>
{\\an8}on two   lines

the second
01:00:03,000 --> 01:00:04.000
was<00:00:03.100><c> it</c><00:00:03.600><c> 3 < 4</c>

NOTE the end
"""


SRT = (
    "1\r\n00:00:01,000 --> 00:00:02,000\r\n<i>One</i>\r\nmore\r\n\r\n\r\n"
    "2\r\n00:00:02,500 --> 00:00:03,000 X1:0\r\nTwo\r\n"
)
SPACES = (  # lines of spaces part the cues of careless files
    "1\n00:00:01,000 --> 00:00:02,000\none\n  \n2\n00:00:03,000 --> 00:00:04,000\ntwo\n \n"
    "00:00:05,000 --> 00:00:06,000\nthree\n"
)
COLUMNS = {"start": [2, 0.5], "end": [4.5, 3], "text": ["stir it", "take a pan"]}
FOUND: dict[str, tuple[str, str, list[Caption]]] = {
    "WebVTT without its markup": (
        "vtt",
        VTT,
        [Caption(1.5, 2.25, "Fish & chips on two lines"), Caption(3603.0, 3604.0, "was it 3 < 4")],
    ),
    "SRT": ("srt", SRT, [Caption(1.0, 2.0, "One more"), Caption(2.5, 3.0, "Two")]),
    "lines of spaces": (
        *("srt", SPACES),
        [Caption(1.0, 2.0, "one"), Caption(3.0, 4.0, "two"), Caption(5.0, 6.0, "three")],
    ),
    "HowTo100M": (
        *("json", json.dumps(COLUMNS)),
        # The recogniser shows the first until 3 s.
        [Caption(0.5, 2.0, "take a pan"), Caption(2.0, 4.5, "stir it")],
    ),
    "HowTo100M by video id": (
        *("json", json.dumps({"dQw4w9": COLUMNS})),
        [Caption(0.5, 2.0, "take a pan"), Caption(2.0, 4.5, "stir it")],
    ),
    "CSV with an index column and quotes": (
        *("csv", ',start,end,text\n0,1,2.5,"take ""this"", now\nplease"\n1,4,5,\n'),
        [Caption(1.0, 2.5, 'take "this", now please')],
    ),
    "SRT that starts before the video": (
        *("srt", "1\n-00:00:01,000 --> 00:00:02,000\nalpha\n"),
        [Caption(0.0, 2.0, "alpha")],
    ),
    "WebVTT without captions": ("vtt", "WEBVTT\n", []),
    "CSV without captions": ("csv", "start,end,text\n", []),
}


@pytest.mark.parametrize("name", FOUND)
def test_files_without_fault(tmp_path: Path, name: str) -> None:
    suffix, content, expected = FOUND[name]
    assert read(tmp_path, suffix, content) == CaptionTrack(expected, problem=None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = "WEBVTT\n\n00:01.000 --> 00:02.000\ncafé crème\n".encode(encoding)
    found = read(tmp_path, "vtt", content)
    assert found.captions == [Caption(1.0, 2.0, "café crème")]
    assert (found.problem is not None) == (encoding == "latin-1")  # which is a guess


def test_odd_captions(tmp_path: Path) -> None:
    rows = [
        (5, 6, "late"),
        (-1, 2, "starts before the video"),
        (1, 3, "overlaps"),
        (4, 4, "no length"),
        (9, 8, "reversed"),
        ("nan", 2, "not a number"),
        (1, "inf", "endless"),
        ("", 2, "no start"),
        (-3, -1, "wholly before the video"),
        (1, 2, " \t "),
    ]
    content = "start,end,text\n" + "".join(f"{start},{end},{text}\n" for start, end, text in rows)
    transcript = read(tmp_path, "csv", content)
    assert transcript.captions == [
        Caption(0.0, 1.0, "starts before the video"),
        Caption(1.0, 3.0, "overlaps"),
        Caption(5.0, 6.0, "late"),
    ]
    reasons = "3 not ending after their start, 3 with times that cannot be read"
    assert transcript.problem == f"6 of 9 captions left out: {reasons}"


def test_one_bad_cue_does_not_lose_the_others(tmp_path: Path) -> None:
    content = "WEBVTT\n\n00:xx.000 --> 00:02.000\nbad\n\n00:03.000 --> 00:04.000\ngood\n"
    transcript = read(tmp_path, "vtt", content)
    assert transcript.captions == [Caption(3.0, 4.0, "good")]
    assert transcript.problem == "1 of 2 captions left out: 1 with times that cannot be read"


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        ("vtt", b"", "holds no caption"),
        ("vtt", b"this is no caption file", "holds no caption"),
        ("srt", b"1\n2\n3\n", "holds no caption"),
        ("vtt", b"\x00\x01\x02\xff", "is not a text file"),
        ("vtt", b"\xff\xfea", "is not a text file"),
        ("json", b"", "is not JSON"),
        ("json", b"[" * 100_000, "is not JSON"),
        ("json", b"[1, 2]", "is not of the form"),
        ("json", b'{"start": [], "end": []}', "is not of the form"),
        ("json", b'{"start": [1], "end": [2, 3], "text": []}', "1 start, 2 end, 0 text"),
        ("vtt", b"1\n00:01.000 --> 00:02.000\n&#" + b"9" * 5000 + b";\n", "Exceeds the limit"),
        ("csv", b"", "has no column start, end, text"),
        ("csv", b"start,text\n1,a\n", "has no column end"),
        ("csv", b'start,end,text\n1,2,a\n3,4,"b\n5,6,c\n', "after line 2: unexpected end"),
        ("csv", b"start,end,text\n1,2," + b"a" * 200_000, "after line 1: field larger"),
    ],
)
def test_broken_file_is_named_with_what_is_wrong(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    with pytest.raises(CaptionError, match=message) as caught:
        read(tmp_path, suffix, content)
    assert str(tmp_path / f"captions.{suffix}") in str(caught.value)
    with pytest.raises(CaptionError, match=r"none.vtt: cannot be read: No such file"):
        read_captions(tmp_path / "none.vtt")


@pytest.mark.parametrize(
    "piece", ["\r", "<a", "{\\a", "&#", "\n ", " \n", "00:01.000 ", "-->", "\n\n--> "]
)
def test_long_hostile_file_is_read_in_linear_time(tmp_path: Path, piece: str) -> None:
    content = "WEBVTT\n\n00:01.000 --> 00:02.000\n" + piece * (1_000_000 // len(piece))
    start_s = time.process_time()
    read(tmp_path, "vtt", content)
    assert time.process_time() - start_s < 5  # quadratic time would be hours


def check_promises(folder: Path, suffix: str, content: bytes) -> None:
    try:
        captions = read(folder, suffix, content).captions
    except CaptionError:
        return
    for caption in captions:
        assert 0 <= caption.start_s < caption.end_s < math.inf
        assert caption.text.strip() == caption.text != ""
        caption.text.encode("utf-8")
    assert captions == sorted(captions, key=lambda caption: (caption.start_s, caption.end_s))


relaxed = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


PIECES = ["WEBVTT", "\n", "\n\n", " --> ", "00:01.000", "99:59:59,999", "-1", "nan", "1e999", '"']
PIECES += ["start,end,text", ",", "<i>", "&#xd800;", "{\\an8}", *"{}[]:\0\ufeff"]
PIECES += ['"start"', '"end"', '"text"', '"\\ud800"', "9" * 5000, "&#", "<a", "١", "é", "\u2028"]


pieces = st.lists(st.sampled_from(PIECES), max_size=30).map("".join).map(str.encode)


@relaxed
@given(
    st.sampled_from([suffix[1:] for suffix in READERS]), st.one_of(st.binary(max_size=400), pieces)
)
def test_any_bytes_give_captions_or_a_caption_error(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    check_promises(tmp_path, suffix, content)


@pytest.mark.slow
@settings(relaxed, max_examples=20_000)
@given(
    st.sampled_from([suffix[1:] for suffix in READERS]),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text())),
)
def test_many_pieces_give_captions_or_a_caption_error(
    tmp_path: Path, suffix: str, pieces: list[str]
) -> None:
    check_promises(tmp_path, suffix, "".join(pieces).encode())


odd_number = st.one_of(st.floats(), st.integers(), st.none(), st.text(max_size=3), st.just(10**400))


@relaxed
@given(st.lists(st.tuples(odd_number, odd_number, st.one_of(st.text(), st.floats()))))
def test_any_howto100m_values_give_captions(tmp_path: Path, rows: list[tuple[object, ...]]) -> None:
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("start", "end", "text"))}
    check_promises(tmp_path, "json", json.dumps(columns).encode())


words = st.text(alphabet="abc é😀'\",", min_size=1).map(lambda text: " ".join(text.split()))
times_ms = st.lists(st.integers(0, 10**7), max_size=16, unique=True).map(sorted)


@relaxed
@given(times_ms, st.lists(words.filter(bool), min_size=8, max_size=8, unique=True), st.randoms())
def test_all_formats_read_the_same_captions(
    tmp_path: Path, all_times_ms: list[int], texts: list[str], order: Random
) -> None:
    times = zip(all_times_ms[::2], all_times_ms[1::2], strict=False)
    rows = [(pair, text) for pair, text in zip(times, texts, strict=False)]
    # Nothing overlaps, and each text has words of its own: nothing is taken for a repetition.
    rows = [(pair, f"{number} {text} {number}") for number, (pair, text) in enumerate(rows)]
    expected = [Caption(start / 1000, end / 1000, text) for (start, end), text in rows]
    order.shuffle(rows)

    def stamp(time_ms: int, mark: str) -> str:
        minutes, milliseconds = divmod(time_ms, 60_000)
        seconds, milliseconds = divmod(milliseconds, 1000)
        return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}{mark}{milliseconds:03}"

    for kind, mark, head in (("vtt", ".", "WEBVTT\n\n"), ("srt", ",", "")):
        cues = [
            f"{number}\n{stamp(start, mark)} --> {stamp(end, mark)}\n{text}\n\n"
            for number, ((start, end), text) in enumerate(rows, start=1)
        ]
        if cues:
            found = read(tmp_path, kind, head + "".join(cues))
            assert found.captions == expected
    with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["start", "end", "text"])
        writer.writerows([start / 1000, end / 1000, text] for (start, end), text in rows)
    assert read_captions(tmp_path / "captions.csv").captions == expected
