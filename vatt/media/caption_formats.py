"""Readers of caption files: what each format holds becomes cues, what is left out is counted.

WebVTT and SRT are in `vatt.media.timed_lines`. Every line of text is in a cue, or is counted.
"""

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET

import av
from av.error import FFmpegError

from vatt.media.encodings import CaptionError, decode_text, open_table
from vatt.media.timed_lines import Cue, clock_s, read_timed_lines

COLUMNS = ("start", "end", "text")
TTML_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:[.,]\d+)?)(?::(\d+(?:\.\d+)?))?")
"""Hours, minutes, seconds and, perhaps, frames."""
NAMES = "b|big|br|c|div|em|font|i|lang|p|rt|ruby|s|small|span|strong|tt|u|v"
TAG = re.compile(
    rf"</?(?:{NAMES})(?:\.[^<>\s]*)?(?:\s+[\w-]+\s*=[^<>]*)?\s*/?>|<(?:v|lang)(?:\.[^<>\s]*)?\s[^<>]*>|"
    r"<(?:\d+:)?\d+:\d+[.,]\d+>",
    re.IGNORECASE,
)
"""Marks of HTML and WebVTT, among them the word times of automatic captions; other text between
angle brackets is text: I <3 you and 5 > 4."""
BREAK = re.compile(r"(?i:<br\s*/?>|</?(?:p|div)(?:\s+[\w-]+\s*=[^<>]*)?\s*/?>)|\\N")
DRAWING = re.compile(r"\{(?=[^{}]*\\p[1-9])[^{}]*+\}.*?(?:\{(?=[^{}]*\\p0)[^{}]*+\}|$)", re.DOTALL)
"""Shapes between {\\p1} and {\\p0} of ASS files, which are no words."""
OVERRIDE = re.compile(
    r"\{(?:\\[^{}]*|[Yy]:[BIUSbius,]+|[Cc]:\$[0-9A-Fa-f]+|[Ff]:\w+|[SsPp]:[\d,]+)\}"
)
"""{\\an8} of ASS and {y:i} of MicroDVD, which SRT files hold, too."""


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
        values = [(row.get("start"), _end_of(row), row.get("text")) for row in rows]
    else:
        values = _read_columns(content)
    for start, end, shown in values:
        given = shown if isinstance(shown, list) else [shown]
        texts = [str(text) for text in given if not (text is None or _is_nan(text))]
        lines = [line for text in texts for line in text.split("\n")]
        yield Cue(parse_seconds(start), parse_seconds(end), tuple(lines))


def _is_nan(value: Any) -> bool:
    """Return whether a value is what pandas writes for a missing text."""
    return isinstance(value, float) and math.isnan(value)


def _end_of(row: dict[str, Any]) -> Any:
    """Return the end of a row, which some say by its duration."""
    if "end" in row or "duration" not in row:
        return row.get("end")
    return parse_seconds(row.get("start")) + parse_seconds(row["duration"])


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
    """Read a CSV file with the columns start, end (seconds or clock times) and text.

    Other columns are ignored; commas of a last column `text` need no quotes.
    """
    num_spoiled, last_line = 0, 1
    try:
        rows = open_table(text)
        names = list(rows.fieldnames or [])
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise CaptionError(
                f"has no column {', '.join(missing)}; start, end and text are needed"
            )
        for row in rows:
            last_line = rows.line_num
            shown, further = row["text"], row.get(None) or []
            if further and names[-1] == "text":
                shown = rows.reader.dialect.delimiter.join([shown, *further])
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
    has_timed_parts = (
        element.tag == "p"
        and "begin" not in element.attrib
        and any("begin" in c.attrib for c in element)
    )
    if element.tag in ("p", "span") and not has_timed_parts:
        if "end" in element.attrib:
            end_s = zero_s + _ttml_seconds(element.attrib["end"], rates)
        else:
            end_s = start_s + _ttml_seconds(element.get("dur", ""), rates)
        yield Cue(start_s, end_s, tuple(_shown_text(element).split("\n")))
        return
    if has_timed_parts:  # what is in none of them has no times
        yield Cue(math.nan, math.nan, (element.text or "", *(part.tail or "" for part in element)))
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
        parts = ((part or "0").replace(",", ".") for part in clock.groups())
        hours, minutes, seconds, frames = map(float, parts)
        return round(hours * 3600 + minutes * 60 + seconds + frames / frame_rate_hz, 3)
    offset = re.fullmatch(r"(\d+(?:\.\d+)?)(h|m|s|ms|f|t)", value.strip())
    if not offset:
        return math.nan
    units = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "f": 1 / frame_rate_hz, "t": 1 / tick_rate_hz}
    return round(float(offset[1]) * units[offset[2]], 3)


def _read_by_ffmpeg(text: str, notes: list[str]) -> Iterator[Cue]:
    """Read ASS, SSA, SAMI, SubViewer, MicroDVD or LRC; FFmpeg knows which by the content."""
    del notes
    try:
        with av.open(io.BytesIO(text.encode())) as container:
            if not container.streams.subtitles:
                raise CaptionError("holds no subtitles")
            yield from read_track(container, container.streams.subtitles[0])
    except FFmpegError as error:
        raise CaptionError(f"cannot be read: {error.strerror}") from error


def parse_seconds(value: Any) -> float:
    """Return seconds from a number, or its text, or a clock time; NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, OverflowError):
        return math.nan
    except ValueError:
        return clock_s(value.strip()) if isinstance(value, str) else math.nan


READERS: dict[str, Callable[[str, list[str]], Iterator[Cue]]] = {
    ".vtt": read_timed_lines,
    ".srt": read_timed_lines,
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
    ".sbv": _read_by_ffmpeg,
    ".sub": _read_by_ffmpeg,
    ".lrc": _read_by_ffmpeg,
}
"""The reader of each suffix; of several files for one video, the first kind is preferred."""
FOR_CAPTIONS_ALONE = READERS.keys() - {".json", ".csv"}
"""Suffixes of files that hold nothing else than captions."""


def is_caption_file(name: str) -> bool:
    """Whether a file holds captions, by its suffix."""
    return PurePosixPath(name).suffix.lower() in READERS
