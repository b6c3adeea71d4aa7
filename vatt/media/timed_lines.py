"""WebVTT and SRT: captions are found by their lines of times.

Files that people have lack the empty lines between cues, hold others within them, or lack a
header.
"""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from vatt.media.encodings import CaptionError

TIME = r"-?\d{1,9}(?: ?[:.,;] ?\d{1,9})+"
CLOCK = re.compile(r"(-?)(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,9})(?:[.,:;](\d+))?")
WIDE = str.maketrans("０１２３４５６７８９：，．；－＞−–—‐›\u00a0", "0123456789:,.;->----> ")
"""Signs of other keyboards and word processors, and what they stand for in a line of times."""
CUE_TIMES = re.compile(rf"\s*({TIME})\s*(?:[-=]{{1,3}} ?(?:>|&gt;)|→)\s*({TIME})(?:\s+(\S.*))?\s*")
"""Start, end and what follows."""
DASHED_TIMES = re.compile(r"\s*(\d+:\d\d:\d\d[.,]\d+)\s*-+\s*(\d+:\d\d:\d\d[.,]\d+)\s*()")
"""Start and end in files where no line of times has an arrow; beside arrows it is text."""
FULL_TIME = r"-?(?:(?:\d+ ?: ?){2}\d\d|\d+ ?: ?\d\d ?[.,:;] ?\d)"
FULL_TIMES = re.compile(
    rf"\s*{FULL_TIME}.*?(?:>|&gt;|→)\s*{FULL_TIME}|\s*-?\d+:\d\d\s*-->\s*\d+:\d\d"
)
"""Hours, minutes and seconds, or a fraction, or the arrow of the format: where a file has such
lines, less is text."""
DAMAGED_TIMES = re.compile(r"\s*-?\d+:[^\n]*-->\s*(?:[-\d]|$)")
"""A line of times that cannot be read; text may hold an arrow, too."""
SETTING = re.compile(r"(?:vertical|line|position|size|align|region|[XY][12]|[ADLST]):\S*")
"""What may follow times: position:10% of WebVTT, A:start of its drafts, X1:100 of SRT."""
NUMBER = re.compile(r"\s*#?\d+[.:)]?\s*")
NOT_SHOWN = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
"""What a block of WebVTT begins with that is not shown."""


class Cue(NamedTuple):
    """A caption as it is shown in lines; times that cannot be read are NaN."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


def read_timed_lines(text: str, notes: list[str]) -> Iterator[Cue]:
    """Read WebVTT or SRT: a line of times begins a cue, all lines up to the next are its text.

    pysubs2, webvtt-py, srt, pycaption and ttconv each lose text of some of these files.
    """
    is_webvtt = text.lstrip()[:6].upper() == "WEBVTT"
    lines = text.replace("\ufeff", "").split("\n")
    times = _find_times(lines, CUE_TIMES) or _find_times(lines, DASHED_TIMES)
    places = list(times)
    if not places and not is_webvtt:
        raise CaptionError("holds no caption: no line with `start --> end`")
    before = lines[: places[0]] if places else []
    is_numbered = any(NUMBER.fullmatch(line) for line in before)
    if is_webvtt:  # up to an empty line all is header
        header = next((place for place, line in enumerate(before) if not line.strip()), len(before))
        before = _leave_out_notes(_leave_out_identifier(before[header:], True, is_numbered))
    num_lost = sum(bool(line.strip()) and not NUMBER.fullmatch(line) for line in before)
    if num_lost:
        notes.append(f"{num_lost} lines before the first line of times left out")
    for place, end in pairwise([*places, len(lines)]):
        start_s, end_s, further = times[place]
        shown = lines[place + 1 : end]
        if end < len(lines):
            shown = _leave_out_identifier(shown, is_webvtt, is_numbered)
        if is_webvtt:
            shown = _leave_out_notes(shown)
        yield Cue(start_s, end_s, (further, *shown))


def _find_times(lines: Sequence[str], form: re.Pattern[str]) -> dict[int, tuple[float, float, str]]:
    """Return what the lines of times of this form say, by their places."""
    found = {place: times for place, line in enumerate(lines) if (times := _read_times(line, form))}
    is_full = {place: bool(FULL_TIMES.match(lines[place].translate(WIDE))) for place in found}
    return {
        place: times
        for place, times in found.items()
        if is_full[place] or math.isnan(times[0]) or not any(is_full.values())
    }


def _read_times(line: str, form: re.Pattern[str]) -> tuple[float, float, str] | None:
    """Return start and end in seconds, and what a line of times says behind them, if it is one.

    The times are NaN if they cannot be read.
    """
    plain = line.translate(WIDE)
    if not plain.lstrip(" \t-")[:1].isdigit():
        return None
    found = form.fullmatch(plain)
    if found:
        start, end, further = found.groups()
        further = line[found.start(3) : found.end(3)] if further else ""
        settings = re.sub(r"(?<=:)\s+|\s+(?=%)", "", further)
        if all(map(SETTING.fullmatch, settings.split())):
            return clock_s(start), clock_s(end), ""
        if ":" in start:  # 5,0 -> 6,0 and more is text
            return clock_s(start), clock_s(end), further
    return (math.nan, math.nan, "") if DAMAGED_TIMES.match(plain) else None


def clock_s(value: str) -> float:
    """Return seconds from 1:02:03.5, 02:03,500 or 3.5; NaN if it is none of these."""
    found = CLOCK.fullmatch(value.replace(" ", ""))
    if not found:
        return math.nan
    sign, hours, minutes, seconds, fraction = found.groups()
    whole = int(hours or 0) * 3600 + int(minutes or 0) * 60
    return round((whole + float(f"{seconds}.{fraction or 0}")) * (-1 if sign else 1), 3)


def _leave_out_identifier(lines: list[str], is_webvtt: bool, is_numbered: bool) -> list[str]:
    """Return the lines between two lines of times without the number or name of the second."""
    place = max((place for place, line in enumerate(lines) if line.strip()), default=-1)
    if place < 0:
        return lines
    # A number that ends a text, with an empty line behind it, belongs to the text.
    is_apart = place == len(lines) - 1 or place == 0 or not lines[place - 1].strip()
    is_number = is_numbered and is_apart and NUMBER.fullmatch(lines[place])
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
