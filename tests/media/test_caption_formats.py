"""Every format of captions that people have: what is shown is read, or counted."""

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatt.media.caption_formats import READERS, read_cues
from vatt.media.encodings import CaptionError, decode_text
from vatt.media.timed_lines import Cue

A, B = "00:00:00,000 --> 00:00:02,000", "00:00:02,000 --> 00:00:04,000"
VA, VB = "00:00.000 --> 00:02.000", "00:02.000 --> 00:04.000"
TIMES = [(0.0, 2.0), (2.0, 4.0)]
GUESS = "not in UTF-8: read as {}, which is a guess"

FILES_OF_USERS: dict[str, tuple[str | bytes, list[str], list[str]]] = {
    "no_gap.srt": (f"1\n{A}\nalpha\n2\n{B}\nbravo\n", ["alpha", "bravo"], []),
    "no_gap.vtt": (f"WEBVTT\n\n{VA}\nalpha\n{VB}\nbravo\n", ["alpha", "bravo"], []),
    "header_lines.vtt": (
        f"WEBVTT\nKind: captions\nLanguage: en\n{VA}\nalpha\n\n{VB}\nbravo\n",
        ["alpha", "bravo"],
        [],
    ),
    "gap_in_cue.srt": (
        f"1\n{A}\nalpha\n\ncharlie\n\n2\n{B}\nbravo\n",
        ["alpha charlie", "bravo"],
        [],
    ),
    "gap_before_text.srt": (f"1\n{A}\n\nalpha\n\n2\n{B}\nbravo\n", ["alpha", "bravo"], []),
    "doubled_line_ends.srt": (
        f"1\n{A}\nalpha\n\n2\n{B}\nbravo\n".replace("\n", "\r\r\n"),
        ["alpha", "bravo"],
        [],
    ),
    "doubled_lines.srt": (
        f"1\n{A}\nalpha\n\n2\n{B}\nbravo\n".replace("\n", "\n\n"),
        ["alpha", "bravo"],
        [],
    ),
    "dash_arrow.srt": (
        f"1\n00:00:00,000 –> 00:00:02,000\nalpha\n\n2\n{B}\nbravo\n",
        ["alpha", "bravo"],
        [],
    ),
    "lost_start.srt": (
        f"a title\n1\n{A}\nalpha\n",
        ["alpha"],
        ["1 lines before the first line of times left out"],
    ),
    "numbers.srt": (f"1\n{A}\n42\n\n2\n{B}\n7\n", ["42", "7"], []),
    "unnumbered.srt": (f"{A}\n42\n\n{B}\n7\n", ["42", "7"], []),
    "named.vtt": (f"WEBVTT\n\nfirst\n{VA}\nalpha\n\nsecond\n{VB}\nbravo\n", ["alpha", "bravo"], []),
    "notes.vtt": (
        f"WEBVTT\n\nSTYLE\n::cue {{}}\n\n{VA}\nalpha\n\nNOTE not\nshown\n\n{VB}\nNOTE shown\n",
        ["alpha", "NOTE shown"],
        [],
    ),
    "commas.csv": ("start,end,text\n0,2,hello, world, again\n", ["hello, world, again"], []),
    "fields.csv": (
        "start,text,end\n0,hello,2,3\n",
        ["hello"],
        ["1 rows with more fields than the first line names"],
    ),
    "windows_1252.srt": (
        f"1\n{A}\nIt\x92s caf\xe9\n".encode("latin-1"),
        ["It’s café"],
        [GUESS.format("Windows-1252")],
    ),
    "windows_1251.srt": (
        f"1\n{A}\nПривет\n".encode("cp1251"),
        ["Привет"],
        [GUESS.format("Windows-1251")],
    ),
    "break.srt": (f"1\n{A}\nhello<br>world\n", ["hello world"], []),
    "heart.srt": (f"1\n{A}\nI <3 you and 5 > 4\n", ["I <3 you and 5 > 4"], []),
    "placeholder.srt": (f"1\n{A}\npress <any key> now\n", ["press <any key> now"], []),
    "backslash_n.srt": (f"1\n{A}\nup here\\Nand there\n", ["up here and there"], []),
    "tags.csv": ('start,end,text\n0,2,"<i>hello</i> &amp; bye"\n', ["hello & bye"], []),
    "tags.json": (
        json.dumps({"start": [0], "end": [2], "text": ["<b>hello</b><br/>{\\an8}bye"]}),
        ["hello bye"],
        [],
    ),
    "arrows.srt": (
        f"1\n{A}\nClick File --> Open\nthen Save\n",
        ["Click File --> Open then Save"],
        [],
    ),
    "before.vtt": (
        f"WEBVTT\nKind: captions\n\nHello there\n\nfirst\n{VA}\nalpha\n",
        ["alpha"],
        ["1 lines before the first line of times left out"],
    ),
    "text_in_brackets.vtt": (
        f"WEBVTT\n\n{VA}\n<v Ann>if a <b and c> d</v> <font color='red'>red</font>\n",
        ["if a <b and c> d red"],
        [],
    ),
    "formula.csv": ("start,end,text\n0,2,\\nabla f and \\hat x\n", ["\\nabla f and \\hat x"], []),
    "one_bad_byte.srt": (
        f"1\n{A}\nDéjà vu, très ".encode() + b"\xe9\n",
        ["Déjà vu, très \N{REPLACEMENT CHARACTER}"],
        ["1 places are not in UTF-8"],
    ),
    "no_milliseconds.srt": ("1\n00:00:00 --> 00:00:02\nalpha\n", ["alpha"], []),
    "text_beside_times.srt": (f"1\n{A} alpha\n2\n{B}  X1:9 Y1:9\nbravo\n", ["alpha", "bravo"], []),
    "hash_numbers.srt": (f"#1\n{A}\nalpha\n\n#2\n{B}\nbravo\n", ["alpha", "bravo"], []),
    "dotted_numbers.srt": (f"1.\n{A}\nalpha\n\n2.\n{B}\nbravo\n", ["alpha", "bravo"], []),
    "joined_files.srt": (
        f"\ufeff1\n\ufeff{A}\nalpha\n\ufeff2\n{B}\nbravo\n",
        ["alpha", "bravo"],
        [],
    ),
    "lower_case.vtt": (f"webvtt\n\n{VA}\nalpha\n", ["alpha"], []),
    "paragraphs.srt": (f"1\n{A}\n<p>hello</p><p class=a>world</p>\n", ["hello world"], []),
    "micro_dvd.srt": (f"1\n{A}\n{{y:i}}hello {{b}}\n", ["hello {b}"], []),
    "spans.ttml": (
        """<tt><body><p>lost <span begin="0s" end="2s">alpha</span>
        <span begin="00:00:02,00" end="00:00:04,00">bravo</span></p></body></tt>""",
        ["lost", "alpha", "bravo"],
        [],
    ),
    "semicolons.csv": ("Start; End;TEXT\r\n0,0;2,0;hello, you\r\n", ["hello, you"], []),
    "tabs.csv": ('\ufeffstart\tend\ttext\n0:00\t0:02\the said "hi"\n', ['he said "hi"'], []),
    "durations.json": (
        json.dumps([{"text": "alpha", "start": 0.0, "duration": 2.0}, {"text": 42}]),
        ["alpha", "42"],
        [],
    ),
    "clock.json": (
        json.dumps({"segments": [{"start": "00:00:00.000", "end": "0:02", "text": ["a", "b"]}]}),
        ["a b"],
        [],
    ),
    "youtube.sbv": (
        "0:00:00.000,0:00:02.000\nalpha\n\n0:00:02.000,0:00:04.000\nbravo\n",
        ["alpha", "bravo"],
        [],
    ),
    "sub_viewer.sub": (
        """[INFORMATION]\n[TITLE]x\n[END INFORMATION]\n[SUBTITLE]
00:00:00.00,00:00:02.00\nalpha[br]one\n\n00:00:02.00,00:00:04.00\nbravo\n""",
        ["alpha one", "bravo"],
        [],
    ),
}
UNTIMED = {"spans.ttml": {0}, "durations.json": {1}}
"""Cues whose times are not known, which are counted."""


@pytest.mark.parametrize("name", FILES_OF_USERS)
def test_files_that_users_have(name: str) -> None:
    content, texts, notes = FILES_OF_USERS[name]
    content = content if isinstance(content, bytes) else content.encode()
    cues, found = read_cues(content, Path(name).suffix)
    assert [" ".join(cue.lines) for cue in cues] == texts
    untimed = UNTIMED.get(name, set())
    assert all(math.isnan(cues[place].start_s) for place in untimed)
    timed = [cue[:2] for place, cue in enumerate(cues) if place not in untimed]
    assert timed == TIMES[: len(timed)]
    assert found == notes


def test_a_dagger_behind_a_word_is_no_letter_of_the_mac() -> None:
    content = f"1\n{A}\nIt’s here† and there\n"
    assert decode_text(content.encode("Windows-1252"))[0] == content


def test_an_escape_sequence_in_utf_8_is_not_taken_for_japanese() -> None:
    assert decode_text(f"1\n{A}\n\x1b$B é".encode()) == (f"1\n{A}\n\x1b$B é", [])


SPOKEN = {
    "Windows-1250": "Dzień dobry, dziś pokażę wam, jak zrobić pierogi z białym serem.",
    "Windows-1251": "Здравствуйте, сегодня мы будем готовить борщ с капустой и свёклой.",
    "Windows-1252": "Aujourd’hui nous préparons une crème brûlée : séparez les œufs.",
    "Windows-1253": "Καλημέρα σας, σήμερα θα μαγειρέψουμε μουσακά με μελιτζάνες.",
    "Windows-1254": "Merhaba arkadaşlar, bugün birlikte börek yapacağız. Şimdi fırına.",
    "Windows-1255": "שלום לכולם, היום נכין יחד חלה עם קמח, שמרים ומים פושרים.",
    "Windows-1256": "مرحبا بكم جميعا، اليوم سنقوم بإعداد الحمص مع الطحينة وعصير الليمون.",
    "KOI8-R": "Здравствуйте, сегодня мы будем готовить борщ с капустой и свёклой.",
    "GB18030": "大家好，今天我们来做一道家常菜，首先把土豆切成丝，然后下锅翻炒。",
    "Big5": "大家好，今天我們來做一道家常菜，首先把馬鈴薯切成絲，然後下鍋翻炒。",
    "CP932": "みなさん、こんにちは。今日は卵焼きを作ります。まず卵を三つ割ります。",
    "EUC-JP": "みなさん、こんにちは。今日は卵焼きを作ります。まず卵を三つ割ります。",
    "CP949": "안녕하세요 여러분, 오늘은 김치찌개를 만들어 보겠습니다.",
    "MacRoman": "Où est le garçon ? Il est très fatigué, ça va être dur.",
    "ISO-2022-JP": "みなさん、こんにちは。今日は卵焼きを作ります。",
    "UTF-16LE": "Привет, как дела?",
    "UTF-16BE": "大家好，今天我们来做一道家常菜。",
    "utf-8": "Hello — “quoted” 🙂",
    "utf-8-sig": "Hello — “quoted” 🙂",
    "utf-16": "Hello — “quoted” 🙂",
    "utf-32": "Hello — “quoted” 🙂",
}


@pytest.mark.parametrize("encoding", SPOKEN)
def test_encodings_are_recognised_and_guesses_said(encoding: str) -> None:
    content = f"1\n{A}\n{SPOKEN[encoding]}\n"
    text, notes = decode_text(content.encode(encoding))
    assert text == content
    assert notes == ([] if encoding.islower() else [GUESS.format(encoding)])


TTML = """<?xml version="1.0" encoding="UTF-8"?>
<tt xmlns="http://www.w3.org/ns/ttml" xmlns:ttp="http://www.w3.org/ns/ttml#parameter"
    xmlns:tts="http://www.w3.org/ns/ttml#styling" ttp:frameRate="25" ttp:tickRate="1000">
<head><metadata>not shown</metadata></head>
<body><div begin="10s">
  <p begin="00:00:00:05" dur="1.8s">alpha &amp; <span tts:color="red">one</span><br/>two</p>
  <p begin="2000t" end="0.1m">bravo</p>
</div></body></tt>"""
DFXP = '<tt><body><div><p begin="0.5s" end="00:00:02.000">alpha</p></div></body></tt>'
SRV1 = '<transcript><text start="0.5" dur="1.5">it&amp;#39;s</text></transcript>'
SRV3 = """<timedtext format="3"><body>
<p t="500" d="1500"><s>al</s><s t="9">pha</s></p></body></timedtext>"""
JSON3 = {
    "events": [
        {"tStartMs": 0, "dDurationMs": 9000, "id": 1},
        {"tStartMs": 500, "dDurationMs": 1500, "segs": [{"utf8": "al"}, {"utf8": "pha"}]},
    ]
}
WHISPER = {"text": "alpha", "segments": [{"start": 0.5, "end": 2, "text": " alpha"}]}
ASS = """[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:00.50,0:00:02.00,Default,,0,0,0,,{\\i1}alpha{\\i0}, one\\Ntwo
Comment: 0,0:00:00.50,0:00:02.00,Default,,0,0,0,,not shown
Dialogue: 0,0:00:02.00,0:00:04.00,Default,,0,0,0,,{\\p1}m 0 0 l 100 0{\\p0}bravo
"""
SAMI = """<SAMI><BODY><SYNC Start=500><P Class=EN>alpha<br>one</P>
<SYNC Start=2000><P>&nbsp;</P></BODY></SAMI>"""


@pytest.mark.parametrize(
    ("suffix", "content", "cues"),
    [
        (".ttml", TTML, [(10.2, 12.0, ("alpha & one", "two")), (12.0, 16.0, ("bravo",))]),
        (".dfxp", DFXP, [(0.5, 2.0, ("alpha",))]),
        (".srv1", SRV1, [(0.5, 2.0, ("it's",))]),
        (".srv3", SRV3, [(0.5, 2.0, ("alpha",))]),
        (".json3", json.dumps(JSON3), [(0.5, 2.0, ("alpha",))]),
        (".json", json.dumps(WHISPER), [(0.5, 2.0, ("alpha",))]),
        (".json", json.dumps(WHISPER | {"segments": []}), []),
        (
            ".ttml",
            '<tt frameRate="24" frameRateMultiplier="1000 1001"><p end="86400f">a</p></tt>',
            [(0.0, 3603.6, ("a",))],
        ),
        (".ass", ASS, [(0.5, 2.0, ("alpha, one", "two")), (2.0, 4.0, ("bravo",))]),
        (".smi", SAMI, [(0.5, 2.0, ("alpha", "one"))]),
    ],
)
def test_formats_of_players_and_sites(
    suffix: str, content: str, cues: list[tuple[float, float, tuple[str, ...]]]
) -> None:
    found, notes = read_cues(content.encode(), suffix)
    shown = [cue for cue in found if cue.lines]
    assert [tuple(cue) for cue in shown] == cues
    assert notes == []


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".json3", '{"events": [1]}'),
        (".json3", '{"events": [{"segs": null}]}'),
        (".ttml", '<tt tickRate="0"><p begin="1t" end="2t">a</p></tt>'),
        (".ttml", "<tt>" + "<div>" * 9000 + "</div>" * 9000 + "</tt>"),
        (".ttml", '<tt frameRateMultiplier="1"><p begin="0s" end="1s">a</p></tt>'),
    ],
)
def test_malformed_content_is_a_caption_error(suffix: str, content: str) -> None:
    with pytest.raises((CaptionError, ValueError)):
        read_cues(content.encode(), suffix)


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("content", [b"", b"\0\1\2", b"no captions", b'{"title": "x"}', b"<a/>"])
def test_foreign_content_is_refused_or_holds_nothing(suffix: str, content: bytes) -> None:
    try:
        cues, _ = read_cues(content, suffix)
    except CaptionError:
        return
    assert cues == []


WORD = st.integers(0, 999).map("w{}".format)
LINE = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
TIME_LINE = st.sampled_from([A, VA, "0:00:01.5 --> 0:00:02,5", "00:01 –> 00:02", "00:xx --> 1"])
LINES = st.lists(st.one_of(LINE, TIME_LINE, st.just(""), st.just("  "), st.integers(0, 9).map(str)))


@given(LINES, st.sampled_from(["\n", "\r\n", "\r\r\n", "\r"]))
def test_every_line_of_an_srt_file_is_in_a_caption_or_counted(lines: list[str], end: str) -> None:
    content = end.join(lines).encode()
    try:
        cues, notes = read_cues(content, ".srt")
    except CaptionError:
        assert not any("-->" in line or "–>" in line for line in lines)
        return
    in_cues = [word for cue in cues for word in " ".join(cue.lines).split() if word[0] == "w"]
    arrows = [place for place, line in enumerate(lines) if "->" in line or "–>" in line]
    # Without fractions and with another arrow it is text beside lines that have both.
    full = [place for place in arrows if "." in lines[place] or "," in lines[place]]
    damaged = [place for place in arrows if "xx" in lines[place]]
    first = min(full + damaged if full else arrows)
    num_before = sum(line[:1] == "w" or "–>" in line for line in lines[:first])
    counted = sum(int(note.split()[0]) for note in notes if "before" in note)
    assert counted == num_before
    assert in_cues == [word for line in lines[first:] for word in re.findall(r"w\d+", line)]


@given(st.lists(LINE, min_size=1, max_size=8))
def test_every_format_reads_what_was_written(texts: list[str]) -> None:
    spans = [(place * 2.0, place * 2.0 + 2) for place in range(len(texts))]
    rows = list(zip(spans, texts, strict=True))
    clock = [[f"00:00:{second:02.0f}.000" for second in span] for span in spans]
    columns = {"start": [s for s, _ in spans], "end": [e for _, e in spans], "text": texts}
    files = {
        ".vtt": "WEBVTT\n\n"
        + "".join(f"{a} --> {b}\n{t}\n\n" for (a, b), t in zip(clock, texts, strict=True)),
        ".srt": "".join(
            f"{n}\n{a} --> {b}\n{t}\n\n"
            for n, ((a, b), t) in enumerate(zip(clock, texts, strict=True), 1)
        ),
        ".csv": "start,end,text\n" + "".join(f"{a},{b},{t}\n" for (a, b), t in rows),
        ".json": json.dumps(columns),
        ".ttml": "<tt><body>"
        + "".join(f'<p begin="{a}s" end="{b}s">{t}</p>' for (a, b), t in rows)
        + "</body></tt>",
    }
    for suffix, content in files.items():
        cues, notes = read_cues(content.encode(), suffix)
        assert cues == [Cue(*span, (text,)) for span, text in rows], suffix
        assert notes == []


def test_times_that_cannot_be_read_are_no_numbers() -> None:
    (cue,), _ = read_cues(b"1\n00:00:xx --> 00:00:02\nalpha\n", ".srt")
    assert math.isnan(cue.start_s)
    assert cue.lines == ("alpha",)
    (cue,), _ = read_cues(f"start,end,text\n{'9' * 5000}:1,2,alpha\n".encode(), ".csv")
    assert math.isnan(cue.start_s)
