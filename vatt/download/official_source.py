"""The data sets of the paper: official lists and the user's media become rows of the manifest.

Every item of the official list ends as part of an ok row or as a failed row with its reason; every
file of the media that is in no list, in the list of ignored files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vatt.corpus.manifest import Annotation, ManifestEntry
from vatt.download.address_list import (
    AddressedMedia,
    Media,
    fetch_media,
    find_videos,
    read_addresses,
)
from vatt.download.collection import Collection, IgnoredFile, describe_captions
from vatt.download.corpus_captions import collect_captions
from vatt.download.datasets.audioset import read_audioset
from vatt.download.datasets.charades import read_charades
from vatt.download.datasets.esc50 import read_esc50
from vatt.download.datasets.hmdb51 import read_hmdb51
from vatt.download.datasets.howto100m import read_howto100m
from vatt.download.datasets.imagenet import read_imagenet
from vatt.download.datasets.kinetics import read_kinetics
from vatt.download.datasets.kinetics_sounds import read_kinetics_sounds
from vatt.download.datasets.moments_in_time import read_moments_in_time
from vatt.download.datasets.msrvtt import read_msrvtt
from vatt.download.datasets.ucf101 import read_ucf101
from vatt.download.datasets.youcook2 import read_youcook2
from vatt.download.fetch import STATE_DIR
from vatt.download.folder import CAPTIONS_DIR, MEDIA_SUFFIXES, draw_split
from vatt.download.items import Item
from vatt.download.matching import ItemFiles, MediaIndex
from vatt.download.official_lists import OfficialLists
from vatt.download.remote_files import StoredFile
from vatt.download.storage import Storage
from vatt.media.caption_files import captions_format, match_captions
from vatt.media.probe import MediaError, open_media
from vatt.params import FetchParams
from vatt.params import sources as kinds

READERS: dict[type[kinds.CatalogueSource], Callable[[OfficialLists, Any], Iterator[Item]]] = {
    kinds.AudioSetSource: read_audioset,
    kinds.CharadesSource: read_charades,
    kinds.ESC50Source: read_esc50,
    kinds.HMDB51Source: read_hmdb51,
    kinds.HowTo100MSource: read_howto100m,
    kinds.KineticsSource: read_kinetics,
    kinds.KineticsSoundsSource: read_kinetics_sounds,
    kinds.MomentsInTimeSource: read_moments_in_time,
    kinds.MSRVTTSource: read_msrvtt,
    kinds.UCF101Source: read_ucf101,
    kinds.YouCook2Source: read_youcook2,
}
"""What reads the official lists; that of ImageNet takes the names of the media, too."""
IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
CLIP_TOLERANCE_S = 1.0
"""A file this much longer than the part that a list names of it is still that part alone."""


def collect_catalogue(
    source: kinds.CatalogueSource, download_dir: Path, fetch: FetchParams
) -> Collection:
    """Copy the media of a data set to `download_dir/<name>` and describe every item of its list.

    Raises:
        StageError: a list or the folder of the media cannot be read, or the disk is full.
    """
    folder = download_dir / source.name
    lists = OfficialLists(source.annotations, fetch)
    media = _open_media(source, lists, folder, fetch)
    listed = media.list_files()
    if isinstance(source, kinds.ImageNetSource):
        index = MediaIndex(listed, IMAGE_SUFFIXES)
        official = read_imagenet(lists, source, index.files)
    else:
        index = MediaIndex(listed, MEDIA_SUFFIXES)
        official = READERS[type(source)](lists, source)
    items = ItemFiles(source.name, index)
    for item in official:
        items.add(_draw_validation(item, source))
    has_captions = isinstance(source, kinds.HowTo100MSource)
    beside = _captions_beside(items, listed) if has_captions else {}
    first = {file.name: file for file in reversed(listed)}  # of files with equal names
    needed = [first[name] for name in sorted({*items.held, *beside.values()})]
    made = (folder / CAPTIONS_DIR).rglob("*") if has_captions else ()
    problems = fetch_media(media, needed, folder, made)
    captions = _find_captions(items, problems, beside, lists, folder) if has_captions else {}
    _add_media(items, problems, captions, folder)
    _add_others(items, problems, listed, index)
    return items.collection


def _open_media(
    source: kinds.CatalogueSource, lists: OfficialLists, folder: Path, fetch: FetchParams
) -> Media:
    """Open the media of a source, in whichever of three ways it names them."""
    if source.media is not None:
        storage = Storage(source.media, fetch, "media")
        storage.refuse_overlap(folder.parent)
        return storage
    if source.addresses is not None:
        return AddressedMedia(read_addresses(source.addresses), folder, fetch)
    return AddressedMedia(find_videos(READERS[type(source)](lists, source)), folder, fetch)


def _draw_validation(item: Item, source: kinds.CatalogueSource) -> Item:
    """Move the item to the split validation if its recording is one of those drawn for that."""
    if item.split != "train" or not source.validation_rate:
        return item
    recording = item.recording or item.whole_video or item.item_id
    return item._replace(split=draw_split(recording, source.validation_rate, 0.0))


def _captions_beside(items: ItemFiles, listed: Sequence[StoredFile]) -> dict[str, str]:
    """Return the caption file beside each media file that has one."""
    names = {file.name for file in listed if not file.problem and captions_format(file.name)}
    return {file: found[0] for file, found in match_captions(items.held, names).items()}


def _find_captions(
    items: ItemFiles,
    problems: dict[str, str | None],
    beside: dict[str, str],
    lists: OfficialLists,
    folder: Path,
) -> dict[str, dict[str, Any]]:
    """Return the captions of each video, as fields of its row: beside it, else among the lists."""
    videos = {
        held[0].item_id: file
        for file, held in items.held.items()
        if file not in beside and not problems[file]
    }
    record_path = STATE_DIR / f"{folder.name}_captions.json"
    found = collect_captions(lists, videos, folder / CAPTIONS_DIR, record_path)
    return {videos[video]: captions for video, captions in found.items()} | {
        file: describe_captions(folder.name, name, problems[name]) for file, name in beside.items()
    }


def _add_media(
    items: ItemFiles,
    problems: dict[str, str | None],
    captions: dict[str, dict[str, Any]],
    folder: Path,
) -> None:
    """Add a row for each file that holds an item."""
    entries = items.collection.entries
    for number, row in enumerate(entries):
        if row.video_id in items.held:
            entries[number] = replace(row, video_id=f"{row.video_id} (a row of the list)")
    for file, held in items.held.items():
        problem = problems[file]
        items.count(file, problem)
        entries.append(
            ManifestEntry(
                source=folder.name,
                video_id=file,
                split=held[0].split,
                status="failed" if problem else "ok",
                path=None if problem else f"{folder.name}/{file}",
                reason=problem,
                annotations=() if problem else _annotate(held, folder / file),
                **captions.get(file, {}),
            )
        )


def _add_others(
    items: ItemFiles,
    problems: dict[str, str | None],
    listed: Sequence[StoredFile],
    index: MediaIndex,
) -> None:
    """Account for the files that hold no item."""
    seen: set[str] = set()
    for file in listed:
        if file.name in seen:
            reason: str | None = f"another file is called {file.name} too"
        elif file.name in problems:
            reason = None
        elif file.problem:
            reason = file.problem
        elif file.name in index.files:
            reason = items.spare.get(file.name, "is not in the official list")
        else:
            reason = "is no media file"
        seen.add(file.name)
        if reason:
            items.collection.ignored.append(IgnoredFile(items.source, file.name, reason))


def _annotate(held: Sequence[Item], path: Path) -> tuple[Annotation, ...]:
    """Return the annotations of all items of a file, with times where it is a whole video."""
    annotations: list[Annotation] = []
    for item in held:
        notes = item.annotations
        if item.part_s and (len(held) > 1 or _is_longer(path, item.part_s)):
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
