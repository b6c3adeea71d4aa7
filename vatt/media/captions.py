"""Captions of a video: files beside it become timed texts; `FORMATS` lists those that are read.

A start before 0 becomes 0; tags are removed, entities decoded and lines joined; captions without
text are skipped. Captions whose times are no finite numbers, or that do not end after they start,
are left out and counted in `Transcript.problem`. Captions beyond the end of the video stay, because
its length is not known here.

Captions of speech recognisers, as of HowTo100M and YouTube, roll: a caption begins with the line
that the one before it ended with, and stays until the next line has been said. `unroll` says each
word once.
"""

import csv
import html
import io
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vatt.corpus.manifest import CaptionsFormat

TOUCH_S = 0.1
"""Captions that are further apart repeat words because somebody says them again."""
MIN_REPEATED_WORDS = 3
"""Fewer equal words within a line may be chance."""
MAX_REPEATED = 50
"""Lines or words compared at most, so that a hostile file takes no longer than others."""
COLUMNS = ("start", "end", "text")
CORPUS_CAPTIONS = ("raw_caption.json", "caption.json")
"""HowTo100M's file of all captions, {video id: {start, end, text}}: as said, which is preferred, or
without stop words."""
LANGUAGE = re.compile(r"(.+)\.([a-z]{2,3})(?:-[A-Za-z0-9]{2,8})*")
"""A stem with a language: clip.en, clip.pt-BR."""
TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
CUE_TIMES = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s|$)", re.ASCII)
BETWEEN_CUES = re.compile(r"\n(?=\n)|\n[ \t]+(?=\n(?:[^\n]*\n)?[^\n]*-->)")
"""An empty line; one of spaces only before a cue, because automatic captions hold them as lines."""
TAG = re.compile(r"</?[a-zA-Z0-9][^<>]*>|\{\\[^{}]*\}")
"""<i>, <c.yellow>, <v Speaker>, the word times of automatic captions, and {\\an8} of SRT files."""


class CaptionError(ValueError):
    """A caption file cannot be read at all; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Caption:
    """A text and when it is said: 0 <= start_s < end_s, both finite; the text is not empty."""

    start_s: float
    end_s: float
    text: str


class Cue(NamedTuple):
    """A caption as it is shown in lines."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


class Transcript(NamedTuple):
    """The captions of a file, sorted by time, and what was left out."""

    captions: list[Caption]
    problem: str | None


def choose_candidates(
    captions: Sequence[Caption], time_s: float, num_captions: int
) -> list[Caption]:
    """Return up to `num_captions` neighbours around a time as MIL-NCE does, the nearest first.

    The caption nearest to the time is the first; then, again and again, the caption before or after
    those chosen joins them, whichever makes the time from the start of the first to the end of the
    last shorter (of equals, the one before). At the first and the last caption it goes on to the
    other side only. `captions` are sorted by time; fewer than asked are returned whole.

    Equally near are all captions that are said at the time; of these the one whose middle is
    nearer comes first.
    """

    def distance(caption: Caption) -> tuple[float, float, float]:
        outside_s = max(caption.start_s - time_s, time_s - caption.end_s, 0.0)
        return outside_s, abs((caption.start_s + caption.end_s) / 2 - time_s), caption.start_s

    if not captions:
        return []
    first = last = min(range(len(captions)), key=lambda place: distance(captions[place]))
    while last - first + 1 < min(num_captions, len(captions)):
        before_s = after_s = math.inf
        if first > 0:
            before_s = captions[last].end_s - captions[first - 1].start_s
        if last + 1 < len(captions):
            after_s = captions[last + 1].end_s - captions[first].start_s
        if before_s <= after_s:
            first -= 1
        else:
            last += 1
    return sorted(captions[first : last + 1], key=distance)


def read_captions(path: Path, captions_format: CaptionsFormat) -> Transcript:
    """Read a caption file in UTF-8, UTF-16 with a byte order mark, or else Latin-1.

    Raises:
        CaptionError: the file cannot be opened, is not text, or does not have the format.
    """
    try:
        return _collect(FORMATS[captions_format].read(decode_text(path.read_bytes())))
    except OSError as error:
        raise CaptionError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # also an entity of thousands of digits
        raise CaptionError(f"{path}: {error}") from error


def decode_text(content: bytes) -> str:
    """Decode UTF-8 (a byte order mark is dropped), UTF-16 with such a mark, or else Latin-1.

    Line ends become newlines. What is not text is a CaptionError.
    """
    has_mark = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ["utf-16"] if has_mark else ["utf-8-sig", "latin-1"]:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        return text.replace("\r\n", "\n").replace("\r", "\n")
    raise CaptionError("is not a text file")


def _collect(stored: Iterable[Cue]) -> Transcript:
    """Clean, check, sort and unroll captions."""
    cues = []
    lost: Counter[str] = Counter()
    for cue in stored:
        # Valid Unicode with single spaces: JSON may hold half of a surrogate pair.
        texts = (line.encode("utf-8", "replace").decode().replace("\0", " ") for line in cue.lines)
        lines = tuple(filter(None, (" ".join(text.split()) for text in texts)))
        start_s = max(0.0, cue.start_s)
        if not lines:
            continue
        if not (math.isfinite(cue.start_s) and math.isfinite(cue.end_s)):
            lost["with times that cannot be read"] += 1
        elif cue.end_s <= start_s:
            lost["not ending after their start"] += 1
        else:
            cues.append(Cue(start_s, cue.end_s, lines))
    problem = None
    if lost:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(lost.items()))
        total = len(cues) + lost.total()
        problem = f"{lost.total()} of {total} captions left out: {reasons}"
    cues.sort(key=lambda cue: (cue.start_s, cue.end_s))
    captions = [Caption(cue.start_s, cue.end_s, " ".join(cue.lines)) for cue in unroll(cues)]
    return Transcript(captions, problem)


def unroll(cues: Iterable[Cue]) -> list[Cue]:
    """Return captions without what they repeat and without overlaps; `cues` are sorted by time.

    Of a caption that touches the one before it, first lines that are the last lines of that one
    are left out, and so are first words that are its last words: three or more, or all of its
    words. A caption of which nothing is left prolongs the one before it. Then a caption ends where
    the next one starts, unless it also lasts longer than that one: a title stays above speech.
    """
    kept: list[Cue] = []
    before: Cue | None = None
    for cue in cues:
        lines = cue.lines
        if before is not None and cue.start_s <= before.end_s + TOUCH_S:
            lines = _leave_out(lines, before.lines)
        if lines:
            kept.append(cue._replace(lines=lines))
        else:
            kept[-1] = kept[-1]._replace(end_s=max(kept[-1].end_s, cue.end_s))
        before = cue
    parted = list(kept)
    later: Cue | None = None  # the next one that starts later
    for place in reversed(range(len(kept))):
        cue = kept[place]
        if place + 1 < len(kept) and kept[place + 1].start_s > cue.start_s:
            later = kept[place + 1]
        if later is not None and later.start_s < cue.end_s <= later.end_s:
            parted[place] = cue._replace(end_s=later.start_s)
    return parted


def _leave_out(lines: tuple[str, ...], before: tuple[str, ...]) -> tuple[str, ...]:
    """Return lines without what the lines before them have said."""
    num_lines = _count_repeated(lines, before)
    if num_lines:
        return lines[num_lines:]
    words, words_before = " ".join(lines).split(), " ".join(before).split()
    num_words = _count_repeated(words, words_before)
    if num_words >= MIN_REPEATED_WORDS or num_words == len(words_before):
        words = words[num_words:]
        return (" ".join(words),) if words else ()
    return lines


def _count_repeated(items: Sequence[str], before: Sequence[str]) -> int:
    """Return how many first items are the last ones of `before`, at most."""
    longest = min(len(items), len(before), MAX_REPEATED)
    lengths = range(longest, 0, -1)
    return next((n for n in lengths if list(items[:n]) == list(before[-n:])), 0)


def _read_cues(text: str) -> Iterator[Cue]:
    """Read WebVTT or SRT: blocks between empty lines, with times in the first or second line.

    pysubs2 is not used: its WebVTT reader takes notes and the next cue's identifier for text, and
    the word times inside automatic captions for cues.
    """
    found = False
    for block in BETWEEN_CUES.split(text):
        lines = block.strip("\n").split("\n")
        place = next((i for i, line in enumerate(lines[:2]) if "-->" in line), None)
        if place is None:  # the header, a note, a style sheet
            continue
        found = True
        times = CUE_TIMES.match(lines[place])
        start_s, end_s = math.nan, math.nan
        if times:
            start_s, end_s = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
        shown = html.unescape(TAG.sub("", "\n".join(lines[place + 1 :])))
        yield Cue(start_s, end_s, tuple(shown.split("\n")))
    if not found and not text.startswith("WEBVTT"):
        raise CaptionError("holds no caption: no line with `start --> end`")


def _seconds(parts: tuple[str | None, ...]) -> float:
    """Return seconds from hours (or None), minutes, seconds and a decimal fraction of a second."""
    hours, minutes, seconds, fraction = parts
    whole = int(hours or 0) * 3600 + int(minutes or 0) * 60
    return round(whole + float(f"{seconds}.{fraction}"), 3)


def _read_howto100m(text: str) -> Iterator[Cue]:
    """Read {"start": [...], "end": [...], "text": [...]}, alone or as {video id: it}."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CaptionError(f"is not JSON: {error}") from error
    if isinstance(content, dict) and len(content) == 1:
        content = next(iter(content.values()))
    columns = content if isinstance(content, dict) else {}
    lists = [columns[name] for name in COLUMNS if isinstance(columns.get(name), list)]
    if len(lists) < len(COLUMNS):
        raise CaptionError('is not of the form {"start": [...], "end": [...], "text": [...]}')
    if len({len(values) for values in lists}) > 1:
        lengths = ", ".join(f"{len(v)} {name}" for name, v in zip(COLUMNS, lists, strict=True))
        raise CaptionError(f"start, end and text differ in length: {lengths}")
    for start, end, value in zip(*lists, strict=True):
        lines = value.split("\n") if isinstance(value, str) else ()
        yield Cue(parse_seconds(start), parse_seconds(end), tuple(lines))


def _read_csv(text: str) -> Iterator[Cue]:
    """Read a CSV file with the columns start, end (seconds) and text; others are ignored."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or [])]
        if missing:
            raise CaptionError(
                f"has no column {', '.join(missing)}; start, end and text are needed"
            )
        for row in rows:
            lines = (row["text"] or "").split("\n")
            yield Cue(parse_seconds(row["start"]), parse_seconds(row["end"]), tuple(lines))
    except csv.Error as error:
        raise CaptionError(f"is not CSV after line {rows.line_num}: {error}") from error


def parse_seconds(value: Any) -> float:
    """Return a number of seconds from a number or a text; NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


class Format(NamedTuple):
    """How the files of a format are named and read."""

    suffix: str
    read: Callable[[str], Iterator[Cue]]


FORMATS: dict[CaptionsFormat, Format] = {
    "vtt": Format(".vtt", _read_cues),
    "srt": Format(".srt", _read_cues),
    "howto100m_json": Format(".json", _read_howto100m),
    "csv": Format(".csv", _read_csv),
}
"""All formats, those first that are preferred where a video has several files. The manifest accepts
the same names: `CaptionsFormat` of vatt.corpus.manifest."""


def captions_format(name: str) -> CaptionsFormat | None:
    """Return the format of a caption file by its suffix; None if it is no caption file."""
    suffix = PurePosixPath(name).suffix.lower()
    return next((key for key, kind in FORMATS.items() if kind.suffix == suffix), None)


def match_captions(media: Iterable[str], captions: Iterable[str]) -> dict[str, list[str]]:
    """Find the caption files of each media file, by their names; the first one is to be used.

    A file without a language comes before English, and English before other languages; then they
    are in the order of `FORMATS`.
    """
    by_stem = defaultdict(list)
    suffixes = [kind.suffix for kind in FORMATS.values()]
    for name in captions:
        path = PurePosixPath(name)
        order = suffixes.index(path.suffix.lower())
        by_stem[str(path.with_suffix(""))].append((0, order, name))
        language = LANGUAGE.fullmatch(str(path.with_suffix("")))
        if language:
            rank = 1 if language[2] == "en" else 2
            by_stem[language[1]].append((rank, order, name))
    matches = {name: sorted(by_stem[str(PurePosixPath(name).with_suffix(""))]) for name in media}
    return {name: [found for _, _, found in files] for name, files in matches.items() if files}
