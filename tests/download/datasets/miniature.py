"""Miniatures of data sets: official lists and media of a few bytes, and what becomes of them."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vatt.corpus.manifest import FOLD_TASK, ManifestEntry, read_manifest, write_manifest
from vatt.download.collection import Collection
from vatt.download.official_source import collect_catalogue
from vatt.params import DownloadParams, FetchParams
from vatt.params.sources import CatalogueSource

FETCH = FetchParams(tries=2, backoff_s=0)
ESC50 = "filename,fold,category\n" + "".join(f"{name}.wav,1,dog\n" for name in "abcd")
"""The simplest of all lists."""


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder; yields the address."""
    folder.mkdir(exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files below a folder; a text is written as it stands, line ends too."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_media(folder: Path, *names: str) -> None:
    """Write files that hold their own names: none is opened while items are matched."""
    write_files(folder, {name: name for name in names})


def collect(tmp_path: Path, kind: str, **changes: object) -> Collection:
    """Collect a data set of `lists/` and `media/`; its rows are what a reader of the manifest gets."""
    given = {
        "kind": kind,
        "name": "mine",
        "annotations": str(tmp_path / "lists"),
        "media": str(tmp_path / "media"),
    }
    for folder in ("lists", "media"):
        (tmp_path / folder).mkdir(exist_ok=True)
    (source,) = DownloadParams.model_validate({"sources": [{**given, **changes}]}).sources
    assert isinstance(source, CatalogueSource)
    download_dir = tmp_path / "download"
    with chdir(tmp_path):  # the ledger of what is fetched lies in the current folder
        collection = collect_catalogue(source, download_dir, FETCH)
    write_manifest(download_dir, collection.entries)
    collection.entries = read_manifest(download_dir)
    return collection


def metrics(collection: Collection) -> dict[str, Any]:
    """Return the counts of the items of the list."""
    assert collection.listed is not None
    return collection.listed.to_metrics()


def counts(collection: Collection) -> dict[str, tuple[int, int, int]]:
    """Return how many items of each split were found, missing, unusable."""
    found = metrics(collection)
    for part in (found, *found["by_split"].values()):
        assert part["listed"] == part["found"] + part["missing"] + part["unusable"]
    return {
        split: (part["found"], part["missing"], part["unusable"])
        for split, part in found["by_split"].items()
    }


def ok(collection: Collection) -> dict[str, ManifestEntry]:
    """Return the rows of files that arrived, by their names."""
    return {row.video_id: row for row in collection.entries if row.status == "ok"}


def splits(collection: Collection) -> dict[str, str]:
    """Return the splits of the files that arrived."""
    return {name: row.split for name, row in ok(collection).items()}


def labels(collection: Collection) -> dict[str, list[str | None]]:
    """Return the labels of the files that arrived, without their times."""
    return {
        name: [note.label for note in row.annotations if note.task != FOLD_TASK]
        for name, row in ok(collection).items()
    }


def folds(collection: Collection) -> dict[str, list[str | None]]:
    """Return what the files that arrived are for in the folds of their data set."""
    return {
        name: [note.label for note in row.annotations if note.task == FOLD_TASK]
        for name, row in ok(collection).items()
    }


def failed(collection: Collection) -> dict[str, str | None]:
    """Return the reasons of the rows that failed."""
    return {row.video_id: row.reason for row in collection.entries if row.status == "failed"}


def ignored(collection: Collection) -> dict[str, str]:
    """Return the reasons of what is no input."""
    return {file.path: file.reason for file in collection.ignored}
