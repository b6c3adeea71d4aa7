"""Rolling captions: those of speech recognisers show a line twice, and overlap; here each word is said once.

Automatic captions scroll: a caption begins with the line that the one before it ended with, and
stays until the next line has been said. HowTo100M and YouTube hold them so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

TOUCH_S = 0.1
"""Captions that are further apart repeat words because somebody says them again."""
MIN_REPEATED_WORDS = 3
"""So many equal words within a line are no chance."""
MAX_REPEATED = 50
"""Lines or words compared at most, so that a hostile file takes no longer than others."""


@dataclass(frozen=True)
class Cue:
    """A caption as it is shown: times in seconds, and its lines without what is only white space."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


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
            kept.append(replace(cue, lines=lines))
        else:
            kept[-1] = replace(kept[-1], end_s=max(kept[-1].end_s, cue.end_s))
        before = cue
    return _part(kept)


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


def _part(cues: Sequence[Cue]) -> list[Cue]:
    """End captions where the next one begins, if that does not end before them."""
    parted: list[Cue] = []
    later: Cue | None = None  # the next one that starts later
    following: Cue | None = None
    for cue in reversed(cues):
        if following is not None and following.start_s > cue.start_s:
            later = following
        following = cue
        if later is not None and later.start_s < cue.end_s <= later.end_s:
            parted.append(replace(cue, end_s=later.start_s))
        else:
            parted.append(cue)
    return parted[::-1]
