"""Readers of caption files: what each format holds becomes cues, what is left out is counted.

WebVTT and SRT are read by their lines of times alone, because files that people have lack the empty
lines between cues, hold others within them, or have no header. Every line of text is in a cue, or
is counted.
"""

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import av
from av.error import FFmpegError

from vatt.media.encodings import CaptionError, decode_text

COLUMNS = ("start", "end", "text")
CLOCK = r"(-?)(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,:](\d{1,3}))?"
TIMES_BEGIN = re.compile(r"\s*-?\d+:[^\n]*-->")
"""A line of times, if damaged ones; text may hold an arrow, too."""
CUE_TIMES = re.compile(rf"\s*{CLOCK}\s*[-–—]{{1,2}}[>›]\s*{CLOCK}(?:\s|$)|\s*{CLOCK}\s*→\s*{CLOCK}")
TTML_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)(?::(\d+(?:\.\d+)?))?")
"""Hours, minutes, seconds and, perhaps, frames."""
NAMES = "b|big|br|c|div|em|font|i|lang|p|rt|ruby|s|small|span|strong|tt|u|v"
TAG = re.compile(
    rf"</?(?:{NAMES})(?:\.[^<>\s]*)?(?:\s+[\w-]+\s*=[^<>]*)?\s*/?>|<(?:v|lang)(?:\.[^<>\s]*)?\s[^<>]*>|"
    r"<(?:\d+:)?\d+:\d+[.,]\d+>",
    re.IGNORECASE,
)
"""Marks of HTML and WebVTT, among them the word times of automatic captions; other text between
angle brackets is text: I <3 you and 5 > 4."""
BREAK = re.compile(r"<[bB][rR]\s*/?>|\\N")
DRAWING = re.compile(r"\{[^{}]*\\p[1-9][^{}]*\}.*?(?:\{[^{}]*\\p0[^{}]*\}|$)", re.DOTALL)
"""Shapes between {\\p1} and {\\p0} of ASS files, which are no words."""
OVERRIDE = re.compile(r"\{\\[^{}]*\}")
"""{\\an8} and the like, in ASS and SRT files."""
NOT_SHOWN = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
"""What a block of WebVTT begins with that is not shown."""


class Cue(NamedTuple):
    """A caption as it is shown in lines; times that cannot be read are NaN."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


def read_cues(content: bytes, suffix: str) -> tuple[list[Cue], list[str]]:
    """Read a caption file by its suffix, one of READERS.

    Returns:
        The cues in the order of the file, with clean lines, and notes on what is not certain or not
        a caption.

    Raises:
        CaptionError: the content is not text, or not in the format.
    """
    text, notes = decode_text(content)
    try:
        cues = list(READERS[suffix](text, notes))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
        raise CaptionError(f"is not in its format: {type(error).__name__}: {error}") from error
    return [cue._replace(lines=clean_lines("\n".join(cue.lines))) for cue in cues], notes


def clean_lines(text: str) -> tuple[str, ...]:
    """Return the lines of a text without marks and empty lines, as valid Unicode."""
    text = BREAK.sub("\n", OVERRIDE.sub("", DRAWING.sub("", text)))
    text = html.unescape(TAG.sub("", text)).encode("utf-8", "replace").decode()
    lines = (" ".join(line.replace("\0", " ").split()) for line in text.split("\n"))
    return tuple(filter(None, lines))


def read_track(container: Any, stream: Any) -> list[Cue]:
    """Read a track of subtitles in an open media file, or a file that FFmpeg reads as one.

    Times count from the earliest start of the file's streams.
    """
    zero_s = (container.start_time or 0) / av.time_base
    cues = []
    for packet in container.demux(stream):
        if not packet.size or packet.pts is None:
            continue
        start_s = float(packet.pts * packet.time_base) - zero_s
        end_s = start_s + float((packet.duration or 0) * packet.time_base)
        try:
            texts = [_decode_line(subtitle) for subtitle in packet.decode()]
        except FFmpegError:  # how FFmpeg reports a cue of SAMI that clears the screen
            texts = [re.sub(r"<[^<>]*>", "", bytes(packet).decode("utf-8", "replace"))]
        cues.append(Cue(start_s, end_s, clean_lines("\n".join(texts))))
    return cues


def _decode_line(subtitle: Any) -> str:
    """Return the text of a subtitle; a hard space of ASS becomes a space."""
    text: str = subtitle.dialogue.decode("utf-8", "replace")
    return text.replace("\\h", " ")


def _read_timed_lines(text: str, notes: list[str]) -> Iterator[Cue]:
    """Read WebVTT or SRT: a line of times begins a cue, all lines up to the next are its text.

    pysubs2, webvtt-py, srt, pycaption and ttconv each lose text of some of these files.
    """
    is_webvtt = text.lstrip().startswith("WEBVTT")
    lines = text.split("\n")
    places = [place for place, line in enumerate(lines) if _holds_times(line)]
    if not places and not is_webvtt:
        raise CaptionError("holds no caption: no line with `start --> end`")
    before = lines[: places[0]] if places else []
    is_numbered = any(line.strip().isdigit() for line in before)
    if is_webvtt:  # up to an empty line all is header
        header = next((place for place, line in enumerate(before) if not line.strip()), len(before))
        before = _leave_out_notes(_leave_out_identifier(before[header:], True, is_numbered))
    num_lost = sum(bool(line.strip()) and not line.strip().isdigit() for line in before)
    if num_lost:
        notes.append(f"{num_lost} lines before the first line of times left out")
    for place, end in pairwise([*places, len(lines)]):
        shown = lines[place + 1 : end]
        if end < len(lines):
            shown = _leave_out_identifier(shown, is_webvtt, is_numbered)
        if is_webvtt:
            shown = _leave_out_notes(shown)
        yield Cue(*_read_times(lines[place]), tuple(shown))


def _holds_times(line: str) -> bool:
    return bool(TIMES_BEGIN.match(line) or CUE_TIMES.match(line))


def _read_times(line: str) -> tuple[float, float]:
    """Return start and end in seconds; NaN if they cannot be read."""
    found = CUE_TIMES.match(line)
    if not found:
        return math.nan, math.nan
    parts = found.groups()[:10] if found[3] else found.groups()[10:]
    return _clock_s(parts[:5]), _clock_s(parts[5:])


def _clock_s(parts: tuple[str | None, ...]) -> float:
    """Return seconds from sign, hours, minutes, seconds and the fraction of a second."""
    sign, hours, minutes, seconds, fraction = parts
    whole = int(hours or 0) * 3600 + int(minutes or 0) * 60
    return round((whole + float(f"{seconds}.{fraction or 0}")) * (-1 if sign else 1), 3)


def _leave_out_identifier(lines: list[str], is_webvtt: bool, is_numbered: bool) -> list[str]:
    """Return the lines between two lines of times without the number or name of the second."""
    place = max((place for place, line in enumerate(lines) if line.strip()), default=-1)
    if place < 0:
        return lines
    is_number = is_numbered and lines[place].strip().isdigit()
    # A name stands alone between an empty line and the times.
    is_name = is_webvtt and place == len(lines) - 1 and place > 0 and not lines[place - 1].strip()
    return lines[:place] if is_number or is_name else lines


def _leave_out_notes(lines: list[str]) -> list[str]:
    """Return lines without the notes and style sheets of WebVTT, from an empty line to the next."""
    shown, hidden, after_empty = [], False, False
    for line in lines:
        hidden = bool(line.strip()) and (hidden or (after_empty and bool(NOT_SHOWN.match(line))))
        if not hidden:
            shown.append(line)
        after_empty = not line.strip()
    return shown


def _read_json(text: str, notes: list[str]) -> Iterator[Cue]:
    """Read HowTo100M's columns, YouTube's events (json3) or Whisper's segments."""
    del notes
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CaptionError(f"is not JSON: {error}") from error
    if isinstance(content, dict) and len(content) == 1 and "events" not in content:
        content = next(iter(content.values()))
    if isinstance(content, dict) and isinstance(content.get("events"), list):
        yield from map(_read_event, filter(lambda event: "segs" in event, content["events"]))
        return
    rows = content.get("segments") if isinstance(content, dict) else content
    are_rows = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    if isinstance(rows, list) and are_rows and (rows or rows is not content):
        values = [tuple(row.get(name) for name in COLUMNS) for row in rows]
    else:
        values = _read_columns(content)
    for start, end, shown in values:
        lines = shown.split("\n") if isinstance(shown, str) else ()
        yield Cue(parse_seconds(start), parse_seconds(end), tuple(lines))


def _read_event(event: dict[str, Any]) -> Cue:
    """Read one event of YouTube's json3: times in milliseconds, text in parts."""
    start_s = parse_seconds(event.get("tStartMs")) / 1000
    parts = (str(part.get("utf8", "")) for part in event["segs"] if isinstance(part, dict))
    end_s = start_s + parse_seconds(event.get("dDurationMs")) / 1000
    return Cue(start_s, end_s, tuple("".join(parts).split("\n")))


def _read_columns(content: Any) -> list[tuple[Any, Any, Any]]:
    """Read {"start": [...], "end": [...], "text": [...]}, HowTo100M's form for one video."""
    columns = content if isinstance(content, dict) else {}
    lists = [columns[name] for name in COLUMNS if isinstance(columns.get(name), list)]
    if len(lists) < len(COLUMNS):
        raise CaptionError(
            'is not of the form {"start": [...], "end": [...], "text": [...]}, nor a list of '
            '"segments" or "events"'
        )
    if len({len(values) for values in lists}) > 1:
        lengths = ", ".join(f"{len(v)} {name}" for name, v in zip(COLUMNS, lists, strict=True))
        raise CaptionError(f"start, end and text differ in length: {lengths}")
    return list(zip(*lists, strict=True))


def _read_csv(text: str, notes: list[str]) -> Iterator[Cue]:
    """Read a CSV file with the columns start, end (seconds) and text; others are ignored.

    Commas of a last column `text` need no quotes.
    """
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    num_spoiled, last_line = 0, 1
    try:
        names = list(rows.fieldnames or [])
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise CaptionError(
                f"has no column {', '.join(missing)}; start, end and text are needed"
            )
        for row in rows:
            last_line = rows.line_num
            shown, further = row["text"] or "", row.get(None) or []
            if further and names[-1] == "text":
                shown = ",".join([shown, *further])
            elif further:
                num_spoiled += 1
            yield Cue(
                parse_seconds(row["start"]), parse_seconds(row["end"]), tuple(shown.split("\n"))
            )
    except csv.Error as error:
        raise CaptionError(f"is not CSV after line {last_line}: {error}") from error
    if num_spoiled:
        notes.append(f"{num_spoiled} rows with more fields than the first line names")


def _read_xml(text: str, notes: list[str]) -> Iterator[Cue]:
    """Read TTML and DFXP (clock times, frames, ticks, nested begins), YouTube's srv1 to srv3.

    ttconv refuses files without a name space, pycaption ignores the begin of a division.
    """
    del notes
    try:
        # Expat fetches nothing, and since 2.4.1 ends entities that grow without bounds.
        root = ET.fromstring(text)  # noqa: S314
    except ET.ParseError as error:
        raise CaptionError(f"is not XML: {error}") from error
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: v for name, v in element.attrib.items()}
    if root.tag == "tt":
        numerator, denominator = map(int, root.get("frameRateMultiplier", "1 1").split())
        frame_rate_hz = float(root.get("frameRate") or 30) * numerator / denominator
        rates = (frame_rate_hz, float(root.get("tickRate") or 1))
        yield from _read_ttml(root, 0.0, rates)
    elif root.tag in ("transcript", "timedtext"):
        for element in [*root.iter("text"), *root.iter("p")]:
            if "start" in element.attrib:  # srv1 has seconds
                start_s, length_s = (parse_seconds(element.get(n)) for n in ("start", "dur"))
            else:
                start_s, length_s = (parse_seconds(element.get(n)) / 1000 for n in ("t", "d"))
            yield Cue(start_s, start_s + length_s, tuple(_shown_text(element).split("\n")))
    else:
        raise CaptionError(f"begins with <{root.tag}>: <tt>, <timedtext> or <transcript> is needed")


def _read_ttml(element: ET.Element, zero_s: float, rates: tuple[float, float]) -> Iterator[Cue]:
    """Read the paragraphs below an element; times count from the begin of what holds them."""
    start_s = zero_s + _ttml_seconds(element.get("begin") or "0s", rates)
    if element.tag == "p":
        if "end" in element.attrib:
            end_s = zero_s + _ttml_seconds(element.attrib["end"], rates)
        else:
            end_s = start_s + _ttml_seconds(element.get("dur", ""), rates)
        yield Cue(start_s, end_s, tuple(_shown_text(element).split("\n")))
        return
    for child in element:
        yield from _read_ttml(child, start_s, rates)


def _shown_text(element: ET.Element) -> str:
    """Return the text of an element and what is in it; a <br/> is a newline."""
    parts = [element.text or ""]
    for child in element:
        parts += ["\n" if child.tag == "br" else _shown_text(child), child.tail or ""]
    return "".join(parts)


def _ttml_seconds(value: str, rates: tuple[float, float]) -> float:
    """Return seconds from a clock time or an offset such as 2.5s, 50f or 10000000t."""
    frame_rate_hz, tick_rate_hz = rates
    clock = TTML_CLOCK.fullmatch(value.strip())
    if clock:
        hours, minutes, seconds, frames = (float(part or 0) for part in clock.groups())
        return round(hours * 3600 + minutes * 60 + seconds + frames / frame_rate_hz, 3)
    offset = re.fullmatch(r"(\d+(?:\.\d+)?)(h|m|s|ms|f|t)", value.strip())
    if not offset:
        return math.nan
    units = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "f": 1 / frame_rate_hz, "t": 1 / tick_rate_hz}
    return round(float(offset[1]) * units[offset[2]], 3)


def _read_by_ffmpeg(text: str, notes: list[str]) -> Iterator[Cue]:
    """Read ASS, SSA or SAMI; FFmpeg knows which by the content."""
    del notes
    try:
        with av.open(io.BytesIO(text.encode())) as container:
            if not container.streams.subtitles:
                raise CaptionError("holds no subtitles")
            yield from read_track(container, container.streams.subtitles[0])
    except FFmpegError as error:
        raise CaptionError(f"cannot be read: {error.strerror}") from error


def parse_seconds(value: Any) -> float:
    """Return a number of seconds from a number or a text; NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


READERS: dict[str, Callable[[str, list[str]], Iterator[Cue]]] = {
    ".vtt": _read_timed_lines,
    ".srt": _read_timed_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".json3": _read_json,
    ".ttml": _read_xml,
    ".dfxp": _read_xml,
    ".srv3": _read_xml,
    ".srv2": _read_xml,
    ".srv1": _read_xml,
    ".ass": _read_by_ffmpeg,
    ".ssa": _read_by_ffmpeg,
    ".smi": _read_by_ffmpeg,
}
"""The reader of each suffix; of several files for one video, the first kind is preferred."""
FOR_CAPTIONS_ALONE = READERS.keys() - {".json", ".csv"}
"""Suffixes of files that hold nothing else than captions."""


def is_caption_file(name: str) -> bool:
    """Whether a file holds captions, by its suffix."""
    return PurePosixPath(name).suffix.lower() in READERS
