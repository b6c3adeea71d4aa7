"""Miniatures of data sets: official lists and media of a few bytes, and what becomes of them."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.download.made_files import write_files
from vatt.corpus.manifest import FOLD_TASK, ManifestEntry, read_manifest, write_manifest
from vatt.download.catalogue import collect_catalogue
from vatt.download.collection import Collection
from vatt.params import DownloadParams, FetchParams
from vatt.params.sources import CatalogueSource

FETCH = FetchParams(tries=2, backoff_s=0)
ESC50 = {
    "esc50.csv": "filename,fold,category\n" + "".join(f"{name}.wav,1,dog\n" for name in "abcd")
}
"""The simplest of all lists."""


def write_media(folder: Path, *names: str) -> None:
    """Write files that hold their own names: none is opened while items are matched."""
    write_files(folder, {name: name for name in names})


@dataclass(frozen=True)
class Found:
    """What became of a data set; `ok`, `splits`, `labels` and `folds` are of files that arrived."""

    collection: Collection

    @property
    def entries(self) -> list[ManifestEntry]:
        return self.collection.entries

    @property
    def metrics(self) -> dict[str, Any]:
        """The counts of the items of the list."""
        assert self.collection.listed is not None
        return self.collection.listed.to_metrics()

    @property
    def counts(self) -> dict[str, tuple[int, int, int]]:
        """How many items of each split were found, missing, unusable."""
        by_split = self.metrics["by_split"]
        for part in (self.metrics, *by_split.values()):
            assert part["listed"] == part["found"] + part["missing"] + part["unusable"]
        return {
            split: (part["found"], part["missing"], part["unusable"])
            for split, part in by_split.items()
        }

    @property
    def ok(self) -> dict[str, ManifestEntry]:
        return {row.video_id: row for row in self.entries if row.status == "ok"}

    @property
    def splits(self) -> dict[str, str]:
        return {name: row.split for name, row in self.ok.items()}

    @property
    def labels(self) -> dict[str, list[str | None]]:
        """The labels without their times."""
        return {
            name: [note.label for note in row.annotations if note.task != FOLD_TASK]
            for name, row in self.ok.items()
        }

    @property
    def folds(self) -> dict[str, list[str | None]]:
        """What the files are for in the folds of their data set."""
        return {
            name: [note.label for note in row.annotations if note.task == FOLD_TASK]
            for name, row in self.ok.items()
        }

    @property
    def failed(self) -> dict[str, str | None]:
        return {row.video_id: row.reason for row in self.entries if row.status == "failed"}

    @property
    def ignored(self) -> dict[str, str]:
        return {file.path: file.reason for file in self.collection.ignored}


def name_rows(file: str, problems: Sequence[str], first: int = 2) -> dict[str, str]:
    """Return the failed rows for bad lines that follow each other from the line `first`."""
    places = [f"{file} line {line}" for line in range(first, first + len(problems))]
    return {place: f"{place}: {problem}" for place, problem in zip(places, problems, strict=True)}


def collect(
    tmp_path: Path,
    kind: str,
    lists: Mapping[str, str | bytes] | None = None,
    files: Iterable[str] = (),
    **changes: object,
) -> Found:
    """Collect a data set of `lists/` and `media/`, to which more is added before.

    Its rows are what a reader of them gets.
    """
    for folder in ("lists", "media"):
        (tmp_path / folder).mkdir(exist_ok=True)
    write_files(tmp_path / "lists", lists or {})
    write_media(tmp_path / "media", *files)
    folders = {"annotations": str(tmp_path / "lists"), "media": str(tmp_path / "media")}
    given = {"kind": kind, "name": "mine", **folders, **changes}
    (source,) = DownloadParams.model_validate({"sources": [given]}).sources
    assert isinstance(source, CatalogueSource)
    download_dir = tmp_path / "download"
    with chdir(tmp_path):  # the ledger of what is fetched lies in the current folder
        collection = collect_catalogue(source, download_dir, FETCH)
    write_manifest(download_dir, collection.entries)
    collection.entries = read_manifest(download_dir)
    return Found(collection)
