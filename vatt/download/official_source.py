"""The data sets of the paper: official lists and the user's media become rows of the manifest.

Every item of the official list ends as part of an ok row or as a failed row with its reason; every
file of the media that is in no list, in the list of ignored files.
"""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from vatt.download.address_list import (
    AddressedMedia,
    Media,
    fetch_media,
    find_videos,
    read_addresses,
)
from vatt.download.collection import Collection, describe_captions
from vatt.download.corpus_captions import collect_captions
from vatt.download.fetch import STATE_DIR
from vatt.download.folder import CAPTIONS_DIR, MEDIA_SUFFIXES, draw_split
from vatt.download.items import Item
from vatt.download.matching import ItemFiles, MediaIndex
from vatt.download.official_lists import OfficialLists
from vatt.download.remote_files import StoredFile
from vatt.download.storage import Storage
from vatt.media.captions import captions_format, match_captions
from vatt.params import FetchParams
from vatt.params import sources as kinds

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})


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
    suffixes = IMAGE_SUFFIXES if isinstance(source, kinds.ImageNetSource) else MEDIA_SUFFIXES
    index = MediaIndex(listed, suffixes)
    lists.media_names = index.files  # ImageNet's folders of classes are its list
    items = ItemFiles(source.name, index)
    for item in _read_items(source, lists):
        items.add(_draw_validation(item, source))
    beside, made = {}, []
    if isinstance(source, kinds.HowTo100MSource):
        beside = _captions_beside(items, listed)
        made = list((folder / CAPTIONS_DIR).rglob("*"))
    first = {file.name: file for file in reversed(listed)}  # of files with equal names
    needed = [first[name] for name in sorted({*items.held, *beside.values()})]
    problems = fetch_media(media, needed, folder, made)
    captions = {
        file: describe_captions(source.name, name, problems[name]) for file, name in beside.items()
    }
    if isinstance(source, kinds.HowTo100MSource):
        videos = {
            held[0].item_id: file
            for file, held in items.held.items()
            if file not in beside and not problems[file]
        }
        record_path = STATE_DIR / f"{source.name}_captions.json"
        found = collect_captions(lists, videos, folder / CAPTIONS_DIR, record_path)
        captions |= {videos[video]: fields for video, fields in found.items()}
    items.add_media(folder, problems, captions)
    items.add_others(problems)
    return items.collection


def _read_items(source: kinds.CatalogueSource, lists: OfficialLists) -> Iterator[Item]:
    """Read the official lists by the module of the data set."""
    module = importlib.import_module(f"vatt.download.datasets.{source.kind}")
    items: Iterator[Item] = getattr(module, f"read_{source.kind}")(lists, source)
    return items


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
    return AddressedMedia(find_videos(_read_items(source, lists)), folder, fetch)


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
