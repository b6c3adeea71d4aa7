"""The folder source: any local or remote folder of videos or sound files, captions beside them.

Every file of the folder ends as a media file of the manifest, as the captions of one, as the
labels, as a failed row with its reason, or in the list of ignored files with the reason.

The urls source: a list of addresses in place of a folder; the rest is as for a folder.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.manifest import Annotation, ManifestEntry, Split
from vatt.download.address_list import ARCHIVES, AddressedMedia, read_addresses
from vatt.download.corpus_captions import stream_captions
from vatt.download.items import Captions, Collection, IgnoredFile
from vatt.download.labels import FileLabels, read_labels
from vatt.download.storage import AS_ALWAYS, HIDDEN, Storage, StoredFile, remove_others
from vatt.media.caption_files import CORPUS_CAPTIONS, captions_format, match_captions
from vatt.params import FetchParams, FolderSource, LabelledSource, UrlsSource

VIDEO_SUFFIXES = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv"
AUDIO_SUFFIXES = ".wav .flac .mp3 .ogg .oga .opus .m4a .aac .wma .aif .aiff"
MEDIA_SUFFIXES = frozenset(f"{VIDEO_SUFFIXES} {AUDIO_SUFFIXES}".split())
Media = Storage | AddressedMedia
CAPTIONS_DIR = ".captions"
"""Caption files made here. Hidden files of a source are ignored, so that no name clashes."""


@dataclass(frozen=True)
class _Files:
    """The files of a folder by what they are."""

    all: dict[str, StoredFile]
    media: list[str]
    captions: dict[str, list[str]]
    """Caption files of a media file; the first one is used."""
    corpus_captions: list[str]

    def wanted(self) -> list[StoredFile]:
        """Return the files to fetch."""
        used = {names[0] for names in self.captions.values()}
        return [self.all[name] for name in sorted({*self.media, *used})]


def collect_folder(
    source: FolderSource, download_dir: Path, fetch: FetchParams = AS_ALWAYS
) -> Collection:
    """Copy a folder to `download_dir/<name>` and describe every file of it.

    Files that are there already are not copied again, and those that no longer belong are removed.

    Raises:
        StageError: the folder or its labels cannot be read, or the disk is full.
    """
    storage = Storage(source.url, fetch)
    storage.refuse_overlap(download_dir)
    return collect_files(source, download_dir, storage)


def collect_files(source: LabelledSource, download_dir: Path, storage: Media) -> Collection:
    """Bring files to `download_dir/<name>`, and describe them all, as `collect_folder` does."""
    listed = storage.list_files()
    files = _sort_files(source, listed)
    reader = _FolderReader(source, download_dir, storage, files)
    wanted, folder = files.wanted(), download_dir / source.name
    kept = {folder / file.name for file in wanted if not file.problem}
    if isinstance(storage, AddressedMedia):
        kept.update(storage.archives_dir.rglob("*"))
    remove_others(folder, kept)
    problems = storage.fetch_all(wanted, folder, source.name)
    for name in files.media:
        reader.add_media(name, problems)
    reader.add_others(files.all.keys() - problems.keys())
    reader.add_equal_names(listed)
    reader.add_labels_without_media(problems.keys())
    reader.add_captions_without_media()
    return reader.collection


def draw_split(name: str, validation_rate: float, test_rate: float) -> Split:
    """Draw a split from a file's name without suffix: other formats of a video go with it."""
    stem = name.removesuffix(PurePosixPath(name).suffix)
    digest = hashlib.blake2b(stem.encode(), digest_size=8).digest()
    share = int.from_bytes(digest) / 2**64
    if share < test_rate:
        return "test"
    return "validation" if share < test_rate + validation_rate else "train"


class _FolderReader:
    """Turns the files of a folder into manifest rows and a list of ignored files."""

    def __init__(
        self,
        source: LabelledSource,
        download_dir: Path,
        storage: Media,
        files: _Files,
    ) -> None:
        """Read the labels and the file of all captions.

        Raises:
            StageError: one of them cannot be read.
        """
        self._source = source
        self._download_dir = download_dir
        self._files = files
        self._labels = _find_labels(source, storage, files.all)
        stems = {PurePosixPath(name).stem for name in files.media}
        self._corpus_captions: dict[str, dict[str, str]] = {}
        self._num_others: Counter[str] = Counter()
        for name in files.corpus_captions:
            found = self._corpus_captions.setdefault(name, {})
            with storage.open(files.all[name]) as file:
                for video, captions in stream_captions(file, name):
                    if video in stems:
                        found[video] = captions
                    else:
                        self._num_others[name] += 1
        self.collection = Collection()

    def add_media(self, name: str, problems: Mapping[str, str | None]) -> None:
        """Add the row of a media file: the first of its caption files, else what others say of it."""
        problem = problems[name]
        if problem:
            self._fail(name, problem)
            return
        beside = self._files.captions.get(name)
        if not beside:
            found = self._write_captions(name)
        elif problems[beside[0]]:
            found = Captions(problem=f"{beside[0]}: {problems[beside[0]]}")
        else:
            found = self._captions(beside[0])
        self.collection.entries.append(
            ManifestEntry(
                source=self._source.name,
                video_id=name,
                path=f"{self._source.name}/{name}",
                captions_path=found.path,
                captions_format=found.format,
                caption_problem=found.problem,
                split=self._split(name),
                annotations=self._annotations(name),
            )
        )

    def add_others(self, names: AbstractSet[str]) -> None:
        """Account for files that are neither media nor captions in use."""
        used = {
            other: beside[0] for beside in self._files.captions.values() for other in beside[1:]
        }
        for name in sorted(names - self._corpus_captions.keys() - {self._source.labels_csv}):
            problem = self._files.all[name].problem
            if problem and problem != HIDDEN and _may_hold_input(name):
                self._fail(name, problem)
            elif problem:
                self._ignore(name, problem)
            elif name in used:
                self._ignore(name, f"{used[name]} is used instead")
            elif captions_format(name) in ("vtt", "srt"):
                self._fail(name, "no media file of the same name is beside this caption file")
            else:
                self._ignore(name, "neither a media file nor the captions of one")

    def add_equal_names(self, listed: list[StoredFile]) -> None:
        """Add a failed row for each file whose name another one has."""
        for number, file in enumerate(listed):
            if file is not self._files.all[file.name]:
                reason = f"another file is called {file.name} too"
                self._fail(f"{file.name} (file {number})", reason)

    def add_labels_without_media(self, fetched: AbstractSet[str]) -> None:
        """Add a failed row for each path of the labels that is no media file of the folder.

        A caption file in use may be listed, without label or text of its own.
        """
        known = {entry.video_id for entry in self.collection.entries}
        for name in sorted(self._labels.keys() - known):
            file = self._labels[name]
            if name not in fetched or file.annotations:
                self._fail(name, f"{file.place}: path = {name!r}: is no media file of the folder")

    def add_captions_without_media(self) -> None:
        """Count the videos of HowTo100M's file of all captions that the folder does not hold."""
        for name, missing in self._num_others.items():
            total = missing + len(self._corpus_captions[name])
            self._ignore(name, f"{missing} of its {total} videos are not in the folder")

    def _fail(self, name: str, reason: str) -> None:
        """Add a failed row."""
        self.collection.entries.append(
            ManifestEntry(
                source=self._source.name,
                video_id=name,
                status="failed",
                reason=reason,
                split=self._split(name),
                annotations=self._annotations(name),
            )
        )

    def _ignore(self, name: str, reason: str) -> None:
        self.collection.ignored.append(IgnoredFile(self._source.name, name, reason))

    def _split(self, name: str) -> Split:
        source, labels = self._source, self._labels.get(name)
        drawn = draw_split(name, source.validation_rate, source.test_rate)
        return (labels.split if labels else None) or drawn

    def _annotations(self, name: str) -> tuple[Annotation, ...]:
        """Rows of the labels, and the name of the folder that holds the file, if asked for."""
        labels = self._labels.get(name)
        found = list(labels.annotations) if labels else []
        folder = PurePosixPath(name).parent.name
        if self._source.labels_from_folders and folder:
            found.append(Annotation(self._source.labels_from_folders, folder))
        return tuple(found)

    def _captions(self, name: str) -> Captions:
        return Captions(f"{self._source.name}/{name}", captions_format(name))

    def _write_captions(self, name: str) -> Captions:
        """Write a caption file from HowTo100M's file of all captions, or from the labels' narration."""
        folder = f"{CAPTIONS_DIR}/{name}"
        stem = PurePosixPath(name).stem
        captions = next((c[stem] for c in self._corpus_captions.values() if stem in c), None)
        if captions is not None:
            self._write(f"{folder}.json", captions)
            return self._captions(f"{folder}.json")
        narration = self._labels[name].narration() if name in self._labels else []
        if not narration:
            return Captions()
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("start", "end", "text"), *narration])
        self._write(f"{folder}.csv", table.getvalue())
        return self._captions(f"{folder}.csv")

    def _write(self, name: str, content: str) -> None:
        with atomic_path(self._download_dir / self._source.name / name) as partial:
            partial.write_text(content, encoding="utf-8")


def _sort_files(source: LabelledSource, listed: list[StoredFile]) -> _Files:
    """Tell media and captions by their names; of equal names the first one counts."""
    files = {file.name: file for file in reversed(listed)}
    media = sorted(name for name, file in files.items() if _is_media(file))
    texts = {
        name
        for name, file in files.items()
        if captions_format(name) and not file.problem and name != source.labels_csv
    }
    captions = match_captions(media, texts)
    matched = {name for names in captions.values() for name in names}
    return _Files(files, media, captions, sorted(texts & set(CORPUS_CAPTIONS) - matched))


def _find_labels(
    source: LabelledSource, storage: Media, files: Mapping[str, StoredFile]
) -> dict[str, FileLabels]:
    """Read the labels CSV that the parameters name, if any."""
    if source.labels_csv is None:
        return {}
    if source.labels_csv not in files:
        raise StageError(
            f"download.sources: labels_csv = {source.labels_csv!r}: is not in {source.name}"
        )
    return read_labels(storage.read(files[source.labels_csv]), source.labels_csv)


def _is_media(file: StoredFile) -> bool:
    return PurePosixPath(file.name).suffix.lower() in MEDIA_SUFFIXES and file.problem != HIDDEN


def _may_hold_input(name: str) -> bool:
    """Whether a name that cannot be read may be a folder or an archive of media, or captions."""
    return name.endswith(("/", *ARCHIVES)) or captions_format(name) in ("vtt", "srt")


def collect_urls(source: UrlsSource, download_dir: Path, fetch: FetchParams) -> Collection:
    """Fetch what a list of addresses names to `download_dir/<name>` and describe every file of it.

    What is there already is not asked for again, and what no longer belongs is removed.

    Raises:
        StageError: the list or its labels cannot be read, or the disk is full.
    """
    addresses = read_addresses(source.addresses)
    media = AddressedMedia(addresses, download_dir / source.name, fetch)
    return collect_files(source, download_dir, media)
