"""Captions of HowTo100M: a caption file for each video, from whichever form the user has.

The form is the file of all captions, 10 GB of JSON that are read as a stream, one video at a time;
else a CSV of the video, as in howto100m_captions.zip. ijson is not used: it refuses NaN, which such
files hold where a text is missing, and then the rest of the file is lost.
"""

import contextlib
import io
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vatt.core.errors import StageError
from vatt.core.files import atomic_path, extend_name, write_json
from vatt.download.collection import describe_captions
from vatt.download.lists import OfficialLists
from vatt.download.storage import remove_others
from vatt.media.caption_files import CORPUS_CAPTIONS

CHUNK = 1 << 20
MAX_VIDEO = 1 << 26
"""No video has captions of so many characters."""
KEY = re.compile(r'\s*,?\s*("(?:[^"\\]|\\.)*")\s*:\s*(?=\{)', re.DOTALL)
END = re.compile(r"\s*\}\s*")


def stream_captions(file: BinaryIO, name: str) -> Iterator[tuple[str, str]]:
    """Yield the id of each video and its captions, as the JSON text that stands in the file.

    Raises:
        StageError: it is not a JSON object of objects; the place is named.
    """
    text = io.TextIOWrapper(file, encoding="utf-8-sig")
    decoder = json.JSONDecoder()
    try:
        head = re.match(r"\s*\{", buffer := text.read(CHUNK))
        if head is None:
            raise _broken(name, 0)
        position, offset = head.end(), 0
        while True:
            try:
                key = KEY.match(buffer, position)
                if key is None:
                    raise ValueError  # noqa: TRY301
                _, end = decoder.raw_decode(buffer, key.end())
            except (ValueError, RecursionError) as error:
                rest = buffer[position:]
                more = text.read(max(CHUNK, len(rest))) if len(rest) < MAX_VIDEO else ""
                if more:
                    buffer, position, offset = rest + more, 0, offset + position
                    continue
                if END.fullmatch(rest):
                    return
                raise _broken(name, offset + position) from error
            yield json.loads(key[1]), buffer[key.end() : end]
            position = end
    except UnicodeDecodeError as error:
        raise StageError(f"{name}: is not text in UTF-8: {error}") from error
    finally:
        text.detach()


def _broken(name: str, position: int) -> StageError:
    return StageError(
        f'{name}: is not of the form {{"video id": {{"start": [...], ...}}, ...}}: '
        f"broken or cut off in what follows character {position}"
    )


def collect_captions(
    lists: OfficialLists, videos: Collection[str], folder: Path, record_path: Path
) -> dict[str, dict[str, Any]]:
    """Bring the captions of videos to `folder`, a hidden one in that of the source.

    The file of all captions is read again only for new videos, or when it has changed: that is what
    `record_path` is for.

    Returns:
        For each video with captions, the fields of its row in the manifest.

    Raises:
        StageError: the file of all captions is broken, or the disk is full.
    """
    source = folder.parent.name
    corpus = lists.find(*CORPUS_CAPTIONS)
    written = _extract(lists, corpus, videos, folder, record_path) if corpus else set()
    made = {video: extend_name(video, ".json") for video in written}
    found = {
        video: describe_captions(source, f"{folder.name}/{name}") for video, name in made.items()
    }
    tables = {name.rpartition("/")[2].removesuffix(".csv"): name for name in lists.find_all(".csv")}
    of_videos = {video: tables[video] for video in videos if video in tables and video not in found}
    files = [lists.files[name] for name in of_videos.values()]
    problems = lists.storage.fetch_all(files, folder)
    for video, name in of_videos.items():
        path = name if problems[name] else f"{folder.name}/{name}"
        found[video] = describe_captions(source, path, problems[name])
    arrived = {folder / name for name in of_videos.values() if not problems[name]}
    remove_others(folder, arrived | {folder / name for name in made.values()})
    return found


def _extract(
    lists: OfficialLists, corpus: str, videos: Collection[str], folder: Path, record_path: Path
) -> set[str]:
    """Write the captions of videos out of the file of all; return the videos that have some."""
    version = lists.storage.version(lists.files[corpus])
    record: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(record_path.read_text(encoding="utf-8"))
    if record.get("version") != version:
        remove_others(folder, set())  # from another file, or from another state of it
        record = {"version": version, "absent": []}
        write_json(record_path, record)
    absent = set(record["absent"])  # the videos that the file is known not to hold
    unknown = set(videos) - absent
    written = {video for video in unknown if (folder / extend_name(video, ".json")).is_file()}
    unknown -= written
    if unknown:
        with lists.storage.open(lists.files[corpus]) as file:
            for video, captions in stream_captions(file, corpus):
                if video in unknown:
                    with atomic_path(folder / extend_name(video, ".json")) as partial:
                        partial.write_text(captions, encoding="utf-8")
                    unknown.remove(video)
                    written.add(video)
        write_json(record_path, {"version": version, "absent": sorted(absent | unknown)})
    return written
