"""Captions of HowTo100M: a caption file for each video, from whichever form the user has.

The file of all captions, raw_caption.json before caption.json; else a CSV of the video, as in
howto100m_captions.zip.
"""

import json
from collections.abc import Collection
from pathlib import Path

from vatt.atomic import atomic_path, write_json
from vatt.data.sources.caption_files import captions_format
from vatt.data.sources.collection import Captions
from vatt.data.sources.corpus_captions import stream_captions
from vatt.data.sources.official_lists import OfficialLists
from vatt.data.sources.storage import remove_others

CORPUS_FILES = ("raw_caption.json", "caption.json")


def collect_captions(
    lists: OfficialLists, videos: Collection[str], folder: Path, record_path: Path
) -> dict[str, Captions]:
    """Bring the captions of videos to `folder`, a hidden one in that of the source.

    The file of all captions is read again only for new videos, or when it has changed: that is what
    `record_path` is for.

    Raises:
        StageError: the file of all captions is broken, or the disk is full.
    """
    below = f"{folder.parent.name}/{folder.name}"
    corpus = lists.find(*CORPUS_FILES)
    written = _extract(lists, corpus, videos, folder, record_path) if corpus else set()
    found = {video: Captions(f"{below}/{video}.json", "howto100m_json") for video in written}
    tables = {name.rpartition("/")[2].removesuffix(".csv"): name for name in lists.find_all(".csv")}
    wanted = {video: tables[video] for video in videos if video in tables and video not in found}
    files = [lists.files[name] for name in wanted.values()]
    problems = lists.storage.fetch_all(files, folder, f"{folder.parent.name} captions")
    for video, name in wanted.items():
        problem = problems[name]
        if problem:
            found[video] = Captions(problem=f"{name}: {problem}")
        else:
            found[video] = Captions(f"{below}/{name}", captions_format(name))
    paths = {folder.parent.parent / captions.path for captions in found.values() if captions.path}
    remove_others(folder, paths)
    return found


def _extract(
    lists: OfficialLists, corpus: str, videos: Collection[str], folder: Path, record_path: Path
) -> set[str]:
    """Write the captions of videos out of the file of all; return the videos that have some."""
    version = lists.version(corpus)
    absent = _read_absent(record_path, version)
    if absent is None:
        remove_others(folder, ())  # from another file, or from another state of it
        absent = set()
        write_json(record_path, {"version": version, "absent": []})
    wanted = set(videos) - absent
    written = {video for video in wanted if (folder / f"{video}.json").is_file()}
    wanted -= written
    if wanted:
        with lists.open(corpus) as file:
            for video, captions in stream_captions(file, corpus):
                if video in wanted:
                    with atomic_path(folder / f"{video}.json") as partial:
                        partial.write_text(captions, encoding="utf-8")
                    wanted.remove(video)
                    written.add(video)
        write_json(record_path, {"version": version, "absent": sorted(absent | wanted)})
    return written


def _read_absent(record_path: Path, version: str) -> set[str] | None:
    """Return the videos that the file is known not to hold; None where it was not read so far."""
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return set(record["absent"]) if record.get("version") == version else None
