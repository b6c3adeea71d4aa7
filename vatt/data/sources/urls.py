"""The urls source: a list of addresses in place of a folder; the rest is as for a folder."""

from pathlib import Path

from vatt.data.sources.address_list import AddressedMedia, read_addresses
from vatt.data.sources.collection import Collection
from vatt.data.sources.folder import collect_files
from vatt.params import FetchParams, UrlsSource


def collect_urls(source: UrlsSource, download_dir: Path, fetch: FetchParams) -> Collection:
    """Fetch what a list of addresses names to `download_dir/<name>` and describe every file of it.

    What is there already is not asked for again, and what no longer belongs is removed.

    Raises:
        StageError: the list or its labels cannot be read, or the disk is full.
    """
    addresses = read_addresses(source.addresses)
    media = AddressedMedia(addresses, download_dir / source.name, fetch)
    return collect_files(source, download_dir, media)
