"""The data sets of the paper: official lists and the user's media become rows of the manifest.

Every item of the official list ends as part of an ok row or as a failed row with its reason; every
file of the media that is in no list, in the list of ignored files.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vatt.corpus.manifest import MISSING, Annotation
from vatt.download.addresses import (
    AddressedMedia,
    Media,
    fetch_media,
    find_videos,
    read_addresses,
)
from vatt.download.captions import collect_captions
from vatt.download.collection import Collection, ListCounts, Outcome, describe_captions
from vatt.download.datasets import READERS
from vatt.download.fetch import STATE_DIR
from vatt.download.folder import CAPTIONS_DIR, MEDIA_SUFFIXES, draw_split
from vatt.download.lists import Item, OfficialLists
from vatt.download.remote_files import HIDDEN, StoredFile
from vatt.download.storage import Storage
from vatt.media.caption_files import match_captions
from vatt.media.caption_formats import is_caption_file
from vatt.media.decoding import MediaError, open_media
from vatt.params import FetchParams
from vatt.params import sources as kinds

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
TITLED = re.compile(r".*\[([\w-]{11})\]", re.DOTALL)
"""`title [id].mp4`, as video sites' downloaders call their files."""
CLIP_TOLERANCE_S = 1.0
"""A file this much longer than the part that a list names of it is still that part alone."""


def collect_catalogue(
    source: kinds.CatalogueSource, download_dir: Path, fetch: FetchParams
) -> Collection:
    """Copy the media of a data set to `download_dir/<name>` and describe every item of its list.

    Raises:
        StageError: a list or the folder of the media cannot be read, or the disk is full.
    """
    folder, read_items = download_dir / source.name, READERS[source.kind]
    lists = OfficialLists(source.annotations, fetch)
    media: Media
    if source.media is not None:
        media = Storage(source.media, fetch, "media")
        media.refuse_overlap(download_dir)
    elif source.addresses is not None:
        media = AddressedMedia(read_addresses(source.addresses), folder, fetch)
    else:
        media = AddressedMedia(find_videos(read_items(lists, source)), folder, fetch)
    listed = media.list_files()
    suffixes = IMAGE_SUFFIXES if isinstance(source, kinds.ImageNetSource) else MEDIA_SUFFIXES
    items = ItemFiles(source.name, listed, suffixes)
    lists.media_names = items.files  # ImageNet's folders of classes are its list
    for item in read_items(lists, source):
        split = item.split
        if split == "train" and source.validation_rate:
            recording = item.recording or item.whole_video or item.item_id
            split = draw_split(recording, source.validation_rate, 0.0)
        items.add(item._replace(split=split))
    beside, made = {}, []
    if isinstance(source, kinds.HowTo100MSource):
        names = {file.name for file in listed if not file.problem and is_caption_file(file.name)}
        beside = {file: texts[0] for file, texts in match_captions(items.held, names).items()}
        made = list((folder / CAPTIONS_DIR).rglob("*"))
    first = {file.name: file for file in reversed(listed)}  # of files with equal names
    needed = [first[name] for name in sorted({*items.held, *beside.values()})]
    problems = fetch_media(media, needed, folder, made)
    captions = {
        file: describe_captions(source.name, name, problems[name]) for file, name in beside.items()
    }
    if isinstance(source, kinds.HowTo100MSource):
        alone = [file for file in items.held if file not in beside and not problems[file]]
        videos = {items.held[file][0].item_id: file for file in alone}
        record_path = STATE_DIR / f"{source.name}_captions.json"
        found = collect_captions(lists, videos, folder / CAPTIONS_DIR, record_path)
        captions |= {videos[video]: fields for video, fields in found.items()}
    items.add_media(folder, problems, captions)
    items.add_others(problems)
    return items.collection


class ItemFiles:
    """The items of a list by their media files, and what becomes of both."""

    def __init__(self, source: str, listed: Sequence[StoredFile], suffixes: frozenset[str]) -> None:
        """Index the files with one of the suffixes; all are sorted by name."""
        self._listed = listed
        self.files: dict[str, StoredFile] = {}
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        """The files by their last name without suffix."""
        self._known: set[str] = set()
        self.held: defaultdict[str, list[Item]] = defaultdict(list)
        """The items of each file; `part_s` is given where it may be the whole video."""
        self._spare: dict[str, str] = {}
        """Why a file that an item could have is not used."""
        self._counts = ListCounts()
        self.collection = Collection(source, listed=self._counts)
        for file in listed:
            stem, _, suffix = file.name.rpartition("/")[2].rpartition(".")
            is_media = f".{suffix.lower()}" in suffixes and file.problem != HIDDEN
            if is_media and file.name not in self.files:
                self.files[file.name] = file
                self._by_stem[stem].append(file.name)
                if titled := TITLED.fullmatch(stem):
                    self._by_stem[titled[1]].append(file.name)

    def find(self, name: str) -> list[str]:
        """Return the files whose path without suffix is `name` or ends with `/name`."""
        folder, _, stem = name.rpartition("/")
        found = self._by_stem.get(stem, [])
        if not folder:
            return found
        return [file for file in found if f"/{file}".rpartition("/")[0].endswith(f"/{folder}")]

    def add(self, item: Item) -> None:
        """Find the file of an item; without one, the item becomes a failed row."""
        if item.item_id in self._known:
            reason = f"the official list names {item.item_id} more than once; the first time counts"
            self.collection.ignore(item.item_id, reason)
            return
        self._known.add(item.item_id)
        files, part_s = next(filter(None, map(self.find, item.names)), []), None
        if not files and item.whole_video:
            files, part_s = self.find(item.whole_video), item.part_s
        if item.unused:
            self._counts.unused += 1
            self._spare |= dict.fromkeys(files, f"is not used: {item.unused}")
            return
        outcome: Outcome = "unusable"
        if item.problem:
            reason = item.problem
        elif item.names[0].startswith("/") or ".." in item.names[0].split("/"):
            reason = "its name leaves the folder of the media"
        elif not files:
            outcome, reason = "missing", f"{MISSING}no media file is called {item.names[0]}"
        else:
            file, *others = files
            first = next(iter(self.held[file]), item)
            if first.split == item.split:
                # Names are of no more use, and those of millions of items fill the memory.
                self.held[file].append(item._replace(names=(), part_s=part_s))
                self._spare |= dict.fromkeys(others, f"{file} is used instead")
                return
            reason = f"its file {file} is in {first.split}, because of {first.item_id}"
        self._counts.outcomes[item.split, outcome] += 1
        self.collection.add(item.item_id, item.split, _list_sentences([item]), reason=reason)

    def add_media(
        self,
        folder: Path,
        problems: Mapping[str, str | None],
        captions: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Add a row for each file that holds an item; `problems` say which did not come."""
        entries = self.collection.entries
        for number, row in enumerate(entries):  # names of items, which must not be those of files
            if row.video_id in self.held:
                entries[number] = replace(row, video_id=f"{row.video_id} (a row of the list)")
        for file, items in self.held.items():
            problem = problems[file]
            outcome: Outcome = "unusable" if problem else "found"
            if problem and problem.startswith(MISSING):
                outcome = "missing"
            self._counts.outcomes[items[0].split, outcome] += len(items)
            notes = _list_sentences(items) if problem else _annotate(items, folder / file)
            self.collection.add(file, items[0].split, notes, captions.get(file), problem)

    def add_others(self, problems: Mapping[str, str | None]) -> None:
        """Account for the files that hold no item."""
        seen: set[str] = set()
        for file in self._listed:
            if file.name in seen:
                self.collection.ignore(file.name, f"another file is called {file.name} too")
            elif file.name not in problems:
                reason = "is no media file"
                if file.name in self.files:
                    reason = self._spare.get(file.name, "is not in the official list")
                self.collection.ignore(file.name, file.problem or reason)
            seen.add(file.name)


def _list_sentences(items: Sequence[Item]) -> tuple[Annotation, ...]:
    """Return the sentences about items without a file: the evaluation names what it lacks."""
    return tuple(note for item in items for note in item.annotations if note.text)


def _annotate(items: Sequence[Item], path: Path) -> tuple[Annotation, ...]:
    """Return the annotations of all items of a file, with times where it is a whole video."""
    annotations: list[Annotation] = []
    for item in items:
        notes = item.annotations
        if item.part_s and (len(items) > 1 or _is_longer(path, item.part_s)):
            start_s, end_s = item.part_s
            notes = tuple(replace(note, start_s=start_s, end_s=end_s) for note in notes)
        annotations.extend(notes)
    return tuple(dict.fromkeys(annotations))


def _is_longer(path: Path, part_s: tuple[float, float]) -> bool:
    """Whether a file holds more than a part of so many seconds, by its header."""
    try:
        with open_media(path) as container:
            duration_s = (container.duration or 0) / 1e6
    except MediaError:  # preprocess will say so
        return True
    return duration_s > part_s[1] - part_s[0] + CLIP_TOLERANCE_S
