"""The data sets of the paper: official lists and the user's media become rows of the manifest.

Every item of the official list ends as part of an ok row or as a failed row with its reason; every
file of the media that is in no list, in the list of ignored files.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from vatt.corpus.manifest import Annotation, ManifestEntry
from vatt.download.address_list import AddressedMedia, find_videos, read_addresses
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
from vatt.download.items import (
    Captions,
    Claim,
    Collection,
    IgnoredFile,
    Item,
    ItemFiles,
    MediaIndex,
)
from vatt.download.official_lists import OfficialLists
from vatt.download.storage import Storage, StoredFile, remove_others
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


class MediaFiles(Protocol):
    """A folder of media, or a list of addresses."""

    def list_files(self) -> list[StoredFile]:
        """Return all files, sorted by name."""

    def fetch_all(
        self, files: Iterable[StoredFile], folder: Path, title: str
    ) -> dict[str, str | None]:
        """Copy files to a folder; return for each name why it could not be copied, or None."""


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
    beside = _captions_beside(items.claims, listed) if has_captions else {}
    names = {*items.claims, *beside.values()}
    wanted = [file for file in _without_equals(listed) if file.name in names]
    made = set((folder / CAPTIONS_DIR).rglob("*")) if has_captions else set()
    if isinstance(media, AddressedMedia):
        made.update(media.archives_dir.rglob("*"))
    remove_others(folder, {folder / file.name for file in wanted if not file.problem} | made)
    problems = media.fetch_all(wanted, folder, source.name)
    reader = _Reader(source.name, folder, items, problems)
    if has_captions:
        reader.add_captions(lists, beside)
    reader.add_media()
    reader.add_others(listed, index)
    return reader.collection


def _draw_validation(item: Item, source: kinds.CatalogueSource) -> Item:
    """Move the item to the split validation if its recording is one of those drawn for that."""
    if item.split != "train" or not source.validation_rate:
        return item
    recording = item.recording or item.whole_video or item.item_id
    return item._replace(split=draw_split(recording, source.validation_rate, 0.0))


class _Reader:
    """Turns items with fetched files into rows of the manifest."""

    def __init__(
        self, source: str, folder: Path, items: ItemFiles, problems: dict[str, str | None]
    ) -> None:
        self._source = source
        self._folder = folder
        self._items = items
        self._problems = problems
        self._captions: dict[str, Captions] = {}
        failed = [
            replace(row, video_id=f"{row.video_id} (a row of the list)")
            if row.video_id in items.claims
            else row
            for row in items.failed
        ]
        self.collection = Collection(failed, items.ignored, items.counts)

    def add_captions(self, lists: OfficialLists, beside: dict[str, str]) -> None:
        """Find the captions of the videos: beside them, else among the lists."""
        for file, name in beside.items():
            problem = self._problems[name]
            self._captions[file] = (
                Captions(problem=f"{name}: {problem}")
                if problem
                else Captions(f"{self._source}/{name}", captions_format(name))
            )
        videos = {
            claims[0].item_id: file
            for file, claims in self._items.claims.items()
            if file not in beside and not self._problems[file]
        }
        record_path = STATE_DIR / f"{self._source}_captions.json"
        found = collect_captions(lists, videos, self._folder / CAPTIONS_DIR, record_path)
        self._captions |= {videos[video]: captions for video, captions in found.items()}

    def add_media(self) -> None:
        """Add a row for each file that holds an item."""
        for file, claims in self._items.claims.items():
            problem = self._problems[file]
            self._items.count(claims, problem)
            captions = self._captions.get(file, Captions())
            self.collection.entries.append(
                ManifestEntry(
                    source=self._source,
                    video_id=file,
                    split=claims[0].split,
                    status="failed" if problem else "ok",
                    path=None if problem else f"{self._source}/{file}",
                    reason=problem,
                    captions_path=captions.path,
                    captions_format=captions.format,
                    caption_problem=captions.problem,
                    annotations=() if problem else _annotate(claims, self._folder / file),
                )
            )

    def add_others(self, listed: list[StoredFile], index: MediaIndex) -> None:
        """Account for the files that hold no item."""
        seen: set[str] = set()
        for file in listed:
            if file.name in seen:
                reason: str | None = f"another file is called {file.name} too"
            elif file.name in self._problems:
                reason = None
            elif file.problem:
                reason = file.problem
            elif file.name in index.files:
                reason = self._items.spare.get(file.name, "is not in the official list")
            else:
                reason = "is no media file"
            seen.add(file.name)
            if reason:
                self.collection.ignored.append(IgnoredFile(self._source, file.name, reason))


def _open_media(
    source: kinds.CatalogueSource, lists: OfficialLists, folder: Path, fetch: FetchParams
) -> MediaFiles:
    """Open the media of a source, in whichever of three ways it names them."""
    if source.media is not None:
        storage = Storage(source.media, fetch, "media")
        storage.refuse_overlap(folder.parent)
        return storage
    if source.addresses is not None:
        return AddressedMedia(read_addresses(source.addresses), folder, fetch)
    return AddressedMedia(find_videos(READERS[type(source)](lists, source)), folder, fetch)


def _without_equals(listed: Iterable[StoredFile]) -> Iterable[StoredFile]:
    """Return the first one of files with equal names."""
    first: dict[str, StoredFile] = {}
    for file in listed:
        first.setdefault(file.name, file)
    return first.values()


def _captions_beside(media: Iterable[str], listed: Iterable[StoredFile]) -> dict[str, str]:
    """Return the caption file beside each media file that has one."""
    names = {file.name for file in listed if not file.problem and captions_format(file.name)}
    return {file: found[0] for file, found in match_captions(media, names).items()}


def _annotate(claims: list[Claim], path: Path) -> tuple[Annotation, ...]:
    """Return the annotations of all items of a file, with times where it is a whole video."""
    annotations: list[Annotation] = []
    for claim in claims:
        if claim.part_s and (len(claims) > 1 or _is_longer(path, claim.part_s)):
            start_s, end_s = claim.part_s
            timed = (replace(row, start_s=start_s, end_s=end_s) for row in claim.annotations)
            annotations.extend(timed)
        else:
            annotations.extend(claim.annotations)
    return tuple(dict.fromkeys(annotations))


def _is_longer(path: Path, part_s: tuple[float, float]) -> bool:
    """Whether a file holds more than a part of so many seconds, by its header."""
    try:
        with open_media(path) as container:
            duration_s = (container.duration or 0) / 1e6
    except MediaError:  # preprocess will say so
        return True
    return duration_s > part_s[1] - part_s[0] + CLIP_TOLERANCE_S
