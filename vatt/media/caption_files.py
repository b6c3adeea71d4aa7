"""Which caption files belong to a media file: those beside it whose name begins with its stem."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from langcodes import Language, tag_is_valid
from langcodes.tag_parser import LanguageTagError

from vatt.media.caption_formats import READERS

CORPUS_CAPTIONS = ("raw_caption.json", "caption.json")
"""HowTo100M's file of all captions, {video id: {start, end, text}}: as said, which is preferred, or
without stop words."""

MARKS = frozenset({"cc", "default", "forced", "foreign", "hi", "sdh"})
"""What players know beside a language; hi is also Hindi, where it is the only one."""
MAX_TAGS = 3


def match_captions(media: Iterable[str], captions: Iterable[str]) -> dict[str, list[str]]:
    """Find the caption files of each media file, by their names; the first one is to be used.

    A caption file belongs to one media file at most: to that with the longest stem, or name, with
    which its own begins, where only a language and marks of players may follow (clip.en.vtt,
    clip.pt-BR.srt, clip.deu.sdh.srt, clip.mp4.vtt). Of media files with one stem, the first of
    `media` has the captions. Captions of all speech come before those of foreign words in it; then
    a file without a language before English, and English before other languages; then the order of
    READERS counts. Names agree if their composed Unicode forms do: macOS decomposes accents.
    """
    owners: dict[str, str] = {}
    names = list(media)
    for name in names:
        owners.setdefault(compose(str(PurePosixPath(name).with_suffix(""))), name)
    for name in names:  # a stem counts more
        owners.setdefault(compose(name), name)
    formats = list(READERS)
    matches = defaultdict(list)
    for name in captions:
        stem, tags = compose(str(PurePosixPath(name).with_suffix(""))), list[str]()
        while stem not in owners and "." in stem and len(tags) < MAX_TAGS:
            stem, _, tag = stem.rpartition(".")
            tags.insert(0, tag.lower())
        spoken = [tag for tag in tags if tag not in MARKS]  # sdh is Southern Kurdish, too
        language = next(filter(None, map(language_of, spoken)), "hi" if "hi" in tags else "")
        others = [tag for tag in tags if language_of(tag) != language]
        if stem in owners and MARKS.issuperset(others):
            is_partial = "forced" in tags or "foreign" in tags
            rank = is_partial, ("", "en", language).index(language), len(tags)
            order = formats.index(PurePosixPath(name).suffix.lower())
            matches[owners[stem]].append((rank, order, name))
    return {name: [found for _, _, found in sorted(files)] for name, files in matches.items()}


def compose(name: str) -> str:
    """Return a name in Unicode's composed form, in which people type accents."""
    return unicodedata.normalize("NFC", name)


def language_of(tag: str) -> str | None:
    """Return the short code of the language of a tag (eng: en, pt-BR: pt), None if it is none."""
    try:
        language = Language.get(tag).language
    except LanguageTagError:
        return None
    return language if language and tag_is_valid(language) else None
