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


def match_captions(media: Iterable[str], captions: Iterable[str]) -> dict[str, list[str]]:
    """Find the caption files of each media file, by their names; the first one is to be used.

    A caption file belongs to one media file at most: to that with the longest stem with which its
    own begins, where nothing but a language may follow (clip.en.vtt, clip.pt-BR.srt, clip.deu.srt).
    Of media files with one stem, the first of `media` has the captions. A file without a language
    comes before English, and English before other languages; then the order of READERS counts.
    Names agree if their composed Unicode forms do, because macOS decomposes accents.
    """
    owners: dict[str, str] = {}
    for name in media:
        owners.setdefault(compose(str(PurePosixPath(name).with_suffix(""))), name)
    formats = list(READERS)
    matches = defaultdict(list)
    for name in captions:
        stem = compose(str(PurePosixPath(name).with_suffix("")))
        rank: int | None = 0
        if stem not in owners:
            stem, _, tag = stem.rpartition(".")
            language = language_of(tag)
            rank = None if language is None else 1 if language == "en" else 2
        if stem in owners and rank is not None:
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
