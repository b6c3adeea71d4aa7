"""Captions of a video: what `vatt.media.caption_formats` reads becomes timed texts.

A start before 0 becomes 0, lines are joined, captions without text are skipped. Captions whose
times are no finite numbers, or that do not end after they start, are left out and counted in
`CaptionTrack.problem`. Captions beyond the end of the video stay: its length is not known here.

Captions of speech recognisers, as of HowTo100M and YouTube, roll: a caption begins with the line
that the one before it ended with, and stays until the next line has been said. `unroll` says each
word once.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from av.error import FFmpegError
from av.stream import Disposition

from vatt.media.caption_files import language_of
from vatt.media.caption_formats import read_cues, read_track
from vatt.media.decoding import open_media
from vatt.media.encodings import CaptionError
from vatt.media.timed_lines import Cue

TOUCH_S = 0.1
"""Captions that are further apart repeat words because somebody says them again."""
MIN_REPEATED_WORDS = 3
"""Fewer equal words within a line may be chance."""
TEXT_CODECS = ("ass", "mov_text", "srt", "ssa", "subrip", "text", "webvtt")
"""Subtitles that are text; others are pictures of it."""
MAX_REPEATED = 50
"""Lines or words compared at most, so that a hostile file takes no longer than others."""


@dataclass(frozen=True)
class Caption:
    """A text and when it is said: 0 <= start_s < end_s, both finite; the text is not empty."""

    start_s: float
    end_s: float
    text: str


class CaptionTrack(NamedTuple):
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


def read_captions(path: Path) -> CaptionTrack:
    """Read a caption file of any format of `READERS`, by its suffix.

    Raises:
        CaptionError: the file cannot be opened, is not text, or does not have the format.
    """
    try:
        cues, notes = read_cues(path.read_bytes(), path.suffix.lower())
    except OSError as error:
        raise CaptionError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # also an entity of thousands of digits
        raise CaptionError(f"{path}: {error}") from error
    return collect_cues(cues, notes)


def read_embedded(path: Path) -> CaptionTrack:
    """Read the subtitles that a media file holds as text, none if there are none.

    Of several tracks, those for all of the speech come before those for foreign words in it, then
    English ones before others, then the default one counts.

    Raises:
        CaptionError: the track is damaged.
        MediaError: the file cannot be opened.
    """
    with open_media(path) as container:
        tracks = [
            stream
            for stream in container.streams.subtitles
            if stream.codec_context is not None and stream.codec_context.name in TEXT_CODECS
        ]
        if not tracks:
            return CaptionTrack([], None)

        def order(stream: Any) -> tuple[bool, bool, bool, int]:
            is_forced = bool(stream.disposition & Disposition.forced)
            is_english = language_of(stream.metadata.get("language", "")) == "en"
            is_default = bool(stream.disposition & Disposition.default)
            return is_forced, not is_english, not is_default, stream.index

        try:
            return collect_cues(read_track(container, min(tracks, key=order)))
        except FFmpegError as error:
            raise CaptionError(f"subtitles: cannot be read: {error.strerror}") from error


def collect_cues(stored: Iterable[Cue], notes: Iterable[str] = ()) -> CaptionTrack:
    """Check, sort and unroll cues; `notes` are problems that their reader had."""
    cues = []
    lost: Counter[str] = Counter()
    for cue in stored:
        start_s = max(0.0, cue.start_s)
        if not cue.lines:
            continue
        if not (math.isfinite(cue.start_s) and math.isfinite(cue.end_s)):
            lost["with times that cannot be read"] += 1
        elif cue.end_s <= start_s:
            lost["not ending after their start"] += 1
        else:
            cues.append(cue._replace(start_s=start_s))
    problems = list(notes)
    if lost:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(lost.items()))
        total = len(cues) + lost.total()
        problems.append(f"{lost.total()} of {total} captions left out: {reasons}")
    cues.sort(key=lambda cue: (cue.start_s, cue.end_s))
    captions = [Caption(cue.start_s, cue.end_s, " ".join(cue.lines)) for cue in unroll(cues)]
    return CaptionTrack(captions, "; ".join(problems) or None)


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
