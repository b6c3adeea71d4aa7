"""The formats of caption files, and which belong to a media file: those beside it by its stem."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from vatt.corpus.manifest import CaptionsFormat

CAPTION_FORMATS: dict[str, CaptionsFormat] = {
    ".vtt": "vtt",
    ".srt": "srt",
    ".json": "howto100m_json",
    ".csv": "csv",
}
LANGUAGE = re.compile(r"(.+)\.([a-z]{2,3})(?:-[A-Za-z0-9]{2,8})*")
"""A stem with a language: clip.en, clip.pt-BR."""

CORPUS_CAPTIONS = ("raw_caption.json", "caption.json")
"""HowTo100M's file of all captions, {video id: {start, end, text}}: as said, which is preferred, or
without stop words."""


def captions_format(name: str) -> CaptionsFormat | None:
    """Return the format of a caption file by its suffix; None if it is no caption file."""
    return CAPTION_FORMATS.get(PurePosixPath(name).suffix.lower())


def match_captions(media: Iterable[str], captions: Iterable[str]) -> dict[str, list[str]]:
    """Find the caption files of each media file, by their names; the first one is to be used.

    A file without a language comes before English, and English before other languages; then
    WebVTT, SRT, JSON and CSV in this order.
    """
    by_stem = defaultdict(list)
    formats = list(CAPTION_FORMATS)
    for name in captions:
        path = PurePosixPath(name)
        order = formats.index(path.suffix.lower())
        by_stem[str(path.with_suffix(""))].append((0, order, name))
        language = LANGUAGE.fullmatch(str(path.with_suffix("")))
        if language:
            rank = 1 if language[2] == "en" else 2
            by_stem[language[1]].append((rank, order, name))
    matches = {name: sorted(by_stem[str(PurePosixPath(name).with_suffix(""))]) for name in media}
    return {name: [found for _, _, found in files] for name, files in matches.items() if files}
