"""The folder source: any local or remote folder of videos or sound files, captions beside them.

Every file of the folder ends as a media file of the manifest, as the captions of one, as the
labels, as a failed row with its reason, or in the list of ignored files with the reason. The urls
source has a list of addresses in place of a folder; the rest is as for a folder.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.manifest import Annotation, Split
from vatt.download.address_list import ARCHIVES, AddressedMedia, Media, fetch_media, read_addresses
from vatt.download.collection import Collection, describe_captions
from vatt.download.corpus_captions import stream_captions
from vatt.download.labels import FileLabels, read_labels
from vatt.download.remote_files import HIDDEN, StoredFile
from vatt.download.storage import DEFAULT_FETCH, Storage
from vatt.media.captions import CORPUS_CAPTIONS, captions_format, match_captions
from vatt.params import FetchParams, FolderSource, LabelledSource, UrlsSource

VIDEO_SUFFIXES = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv"
AUDIO_SUFFIXES = ".wav .flac .mp3 .ogg .oga .opus .m4a .aac .wma .aif .aiff"
MEDIA_SUFFIXES = frozenset(f"{VIDEO_SUFFIXES} {AUDIO_SUFFIXES}".split())
CAPTIONS_DIR = ".captions"
"""Caption files made here. Hidden files of a source are ignored, so that no name clashes."""


def collect_folder(
    source: FolderSource, download_dir: Path, fetch: FetchParams = DEFAULT_FETCH
) -> Collection:
    """Copy a folder to `download_dir/<name>` and describe every file of it.

    Files that are there already are not copied again, and those that no longer belong are removed.

    Raises:
        StageError: the folder or its labels cannot be read, or the disk is full.
    """
    storage = Storage(source.url, fetch)
    storage.refuse_overlap(download_dir)
    return _Reader(source, download_dir, storage).collect()


def collect_urls(source: UrlsSource, download_dir: Path, fetch: FetchParams) -> Collection:
    """Fetch what a list of addresses names to `download_dir/<name>` and describe every file of it.

    What is there already is not asked for again, and what no longer belongs is removed.

    Raises:
        StageError: the list or its labels cannot be read, or the disk is full.
    """
    addresses = read_addresses(source.addresses)
    media = AddressedMedia(addresses, download_dir / source.name, fetch)
    return _Reader(source, download_dir, media).collect()


def draw_split(name: str, validation_rate: float, test_rate: float) -> Split:
    """Draw a split from a file's name without suffix: other formats of a video go with it."""
    stem = name.removesuffix(PurePosixPath(name).suffix)
    digest = hashlib.blake2b(stem.encode(), digest_size=8).digest()
    share = int.from_bytes(digest) / 2**64
    if share < test_rate:
        return "test"
    return "validation" if share < test_rate + validation_rate else "train"


class _Reader:
    """Turns the files of a folder into manifest rows and a list of ignored files."""

    def __init__(self, source: LabelledSource, download_dir: Path, media: Media) -> None:
        """List the files; read the labels and the file of all captions."""
        self._source, self._download_dir, self._media = source, download_dir, media
        self._listed = media.list_files()
        self._files = {file.name: file for file in reversed(self._listed)}
        """By name; the first of files with equal names counts."""
        self._names = sorted(name for name, file in self._files.items() if _is_media(file))
        texts = {
            name
            for name, file in self._files.items()
            if captions_format(name) and not file.problem and name != source.labels_csv
        }
        self._captions = match_captions(self._names, texts)
        """Caption files of a media file; the first one is used."""
        texts -= {name for names in self._captions.values() for name in names}
        self._labels = self._read_labels()
        self._corpus_captions: dict[str, dict[str, str]] = {}
        """Captions by the stem of the video, for each file of all captions."""
        self._num_others: Counter[str] = Counter()
        stems = {PurePosixPath(name).stem for name in self._names}
        for name in CORPUS_CAPTIONS:
            if name in texts:
                self._read_corpus_captions(name, stems)
        self._collection = Collection(source.name)

    def collect(self) -> Collection:
        """Fetch the media and their captions, and describe all files."""
        used = {names[0] for names in self._captions.values()}
        needed = [self._files[name] for name in sorted({*self._names, *used})]
        folder = self._download_dir / self._source.name
        self._problems = fetch_media(self._media, needed, folder)
        for name in self._names:
            self._add_media(name)
        self._add_others()
        self._add_equal_names()
        self._add_labels_without_media()
        for name, missing in self._num_others.items():
            total = missing + len(self._corpus_captions[name])
            self._collection.ignore(name, f"{missing} of its {total} videos are not in the folder")
        return self._collection

    def _read_labels(self) -> dict[str, FileLabels]:
        """Read the labels CSV that the parameters name, if any."""
        name = self._source.labels_csv
        if name is None:
            return {}
        if name not in self._files:
            raise StageError(
                f"download.sources: labels_csv = {name!r}: is not in {self._source.name}"
            )
        with self._media.open(self._files[name]) as file:
            return read_labels(file.read(), name)

    def _read_corpus_captions(self, name: str, stems: set[str]) -> None:
        found = self._corpus_captions.setdefault(name, {})
        with self._media.open(self._files[name]) as file:
            for video, captions in stream_captions(file, name):
                if video in stems:
                    found[video] = captions
                else:
                    self._num_others[name] += 1

    def _add_media(self, name: str) -> None:
        """Add the row of a media file: its first caption file, else what others say of it."""
        beside = self._captions.get(name)
        if problem := self._problems[name]:
            self._add(name, reason=problem)
        elif beside:
            problem = self._problems[beside[0]]
            self._add(name, describe_captions(self._source.name, beside[0], problem))
        else:
            self._add(name, self._write_captions(name))

    def _add_others(self) -> None:
        """Account for files that are neither media nor captions in use."""
        used = {other: first for first, *others in self._captions.values() for other in others}
        names = self._files.keys() - self._problems.keys() - self._corpus_captions.keys()
        for name in sorted(names - {self._source.labels_csv}):
            problem = self._files[name].problem
            if problem and problem != HIDDEN and _may_hold_input(name):
                self._add(name, reason=problem)
            elif problem:
                self._collection.ignore(name, problem)
            elif name in used:
                self._collection.ignore(name, f"{used[name]} is used instead")
            elif captions_format(name) in ("vtt", "srt"):
                self._add(name, reason="no media file of the same name is beside this caption file")
            else:
                self._collection.ignore(name, "neither a media file nor the captions of one")

    def _add_equal_names(self) -> None:
        """Add a failed row for each file whose name another one has."""
        for number, file in enumerate(self._listed):
            if file is not self._files[file.name]:
                reason = f"another file is called {file.name} too"
                self._add(f"{file.name} (file {number})", reason=reason)

    def _add_labels_without_media(self) -> None:
        """Add a failed row for each path of the labels that is no media file of the folder.

        A caption file in use may be listed, without label or text of its own.
        """
        known = {entry.video_id for entry in self._collection.entries}
        for name in sorted(self._labels.keys() - known):
            file = self._labels[name]
            if name not in self._problems or file.annotations:
                reason = f"{file.place}: path = {name!r}: is no media file of the folder"
                self._add(name, reason=reason)

    def _add(
        self, name: str, captions: Mapping[str, Any] | None = None, reason: str | None = None
    ) -> None:
        """Add a row with what the labels say; the folder of the file is one, too, if asked for."""
        source, labels = self._source, self._labels.get(name, FileLabels(""))
        split = labels.split or draw_split(name, source.validation_rate, source.test_rate)
        notes, folder = tuple(labels.annotations), PurePosixPath(name).parent.name
        if source.labels_from_folders and folder:
            notes += (Annotation(source.labels_from_folders, folder),)
        self._collection.add(name, split, notes, captions, reason)

    def _write_captions(self, name: str) -> dict[str, Any]:
        """Write a caption file from HowTo100M's file of all captions, or the labels' narration.

        Returns:
            The fields of the row of the media file; none where nobody says what is said in it.
        """
        stem = PurePosixPath(name).stem
        texts = next((c[stem] for c in self._corpus_captions.values() if stem in c), None)
        suffix = "json"
        if texts is None:
            narration = self._labels[name].narration() if name in self._labels else []
            if not narration:
                return {}
            table = io.StringIO()
            rows = [("start", "end", "text"), *narration]
            csv.writer(table, lineterminator="\n").writerows(rows)
            texts, suffix = table.getvalue(), "csv"
        file = f"{CAPTIONS_DIR}/{name}.{suffix}"
        with atomic_path(self._download_dir / self._source.name / file) as partial:
            partial.write_text(texts, encoding="utf-8")
        return describe_captions(self._source.name, file)


def _is_media(file: StoredFile) -> bool:
    return PurePosixPath(file.name).suffix.lower() in MEDIA_SUFFIXES and file.problem != HIDDEN


def _may_hold_input(name: str) -> bool:
    """Whether a name that cannot be read may be a folder or an archive of media, or captions."""
    return name.endswith(("/", *ARCHIVES)) or captions_format(name) in ("vtt", "srt")
