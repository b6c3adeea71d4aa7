"""The folder source: any local or remote folder of videos or sound files, captions beside them.

Every file of the folder ends as a media file of the manifest, as the captions of one, as the
labels, as a failed row with its reason, or in the list of ignored files with the reason. The urls
source has a list of addresses in place of a folder; the rest is as for a folder.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from vatt.core.errors import StageError
from vatt.core.files import atomic_path, extend_name
from vatt.corpus.manifest import Annotation, Split
from vatt.download.addresses import ARCHIVES, AddressedMedia, Media, fetch_media, read_addresses
from vatt.download.captions import stream_captions
from vatt.download.collection import Collection, describe_captions
from vatt.download.lists import Row, RowError
from vatt.download.remote_files import HIDDEN
from vatt.download.storage import DEFAULT_FETCH, Storage
from vatt.media.caption_files import CORPUS_CAPTIONS, compose, match_captions
from vatt.media.caption_formats import FOR_CAPTIONS_ALONE, is_caption_file
from vatt.media.captions import read_captions
from vatt.media.encodings import CaptionError, decode_text, open_table
from vatt.params import FetchParams, FolderSource, LabelledSource, UrlsSource

VIDEO_SUFFIXES = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv"
VIDEO_SUFFIXES += " .3g2 .asf .divx .dv .f4v .gif .m2v .mxf .ogm .qt .vob"
AUDIO_SUFFIXES = ".wav .flac .mp3 .ogg .oga .opus .m4a .aac .wma .aif .aiff"
AUDIO_SUFFIXES += " .ac3 .amr .au .caf .m4b .mka .mp2 .weba"
MEDIA_SUFFIXES = frozenset(f"{VIDEO_SUFFIXES} {AUDIO_SUFFIXES}".split())
CAPTIONS_DIR = ".captions"
"""Caption files made here. Hidden files of a source are ignored, so that no name clashes."""
NARRATION_TASK = "audio_speech"
"""Rows of this task with a text and times are what is said: captions, where no caption file is."""
SHOWN_PROBLEMS = 10


@dataclass
class FileLabels:
    """All that the labels CSV says about one file."""

    place: str
    """File and line of the first row."""
    annotations: list[Annotation] = field(default_factory=list)
    split: Split | None = None

    def narration(self) -> list[tuple[float, float, str]]:
        """Return the rows that hold what is said: start and end in seconds, text."""
        return [
            (row.start_s, row.end_s, row.text)
            for row in self.annotations
            if row.task == NARRATION_TASK and row.text
            if row.start_s is not None and row.end_s is not None
        ]


def read_labels(content: bytes, name: str) -> dict[str, FileLabels]:
    """Read a CSV path,task[,label,start,end,text,split] into what it says about each path.

    Semicolons, tabs or bars may stand for the commas, and the header may have capitals. The paths
    are in Unicode's composed form. Other columns are ignored. A row without label and text only
    names a file.

    Raises:
        StageError: the file is not CSV, a column is missing, or rows are wrong; it names the file,
            the lines, the fields and what is accepted.
    """
    labels: dict[str, FileLabels] = {}
    problems = []
    last_line = 1
    try:
        rows = open_table(decode_text(content)[0])
        header = rows.fieldnames or []
        missing = [column for column in ("path", "task") if column not in header]
        if missing:
            raise StageError(
                f"{name}: has no column {', '.join(missing)}; its header must hold path,task "
                f"and may hold label,start,end,text,split; it is {','.join(header)}"
            )
        for fields in rows:
            last_line = rows.line_num
            texts = {key: (fields.get(key) or "").strip() for key in fields if key}
            row = Row(f"{name} line {rows.line_num}", rows.line_num, texts)
            try:
                _add_row(labels, row, further=fields.get(None, ()))
            except RowError as error:
                problems.append(f"{row.place}: {error}")
    except csv.Error as error:
        reason = "a quotation mark is not closed" if "unexpected end" in str(error) else error
        raise StageError(f"{name} line {last_line + 1}: is not CSV: {reason}") from error
    except CaptionError as error:
        raise StageError(f"{name}: is not CSV: {error}") from error
    if len(problems) > SHOWN_PROBLEMS:
        problems[SHOWN_PROBLEMS:] = [f"and {len(problems) - SHOWN_PROBLEMS} more"]
    if problems:
        raise StageError("\n".join(problems))
    return labels


def _add_row(labels: dict[str, FileLabels], row: Row, further: Sequence[str]) -> None:
    """Check one row and add it to the labels of its file; `further` fields have no column."""
    if further:
        raise RowError(
            f"{','.join(further)!r} is behind the last column: a text with commas stands in quotes"
        )
    fields: Mapping[str, str] = row.fields
    for column in ("task", "label", "split"):
        if "\n" in (value := fields.get(column, "")):
            raise RowError(f"{column} = {value!r}: a quotation mark is not closed")
    path, task = compose(str(PurePosixPath(row.text("path")))), row.text("task")
    start_s = end_s = None
    if fields.get("start") or fields.get("end"):
        if not (fields.get("start") and fields.get("end")):
            raise RowError("start and end: give both, or none for the whole file")
        start_s, end_s = row.part_s("start", "end")
    file = labels.setdefault(path, FileLabels(row.place))
    if split := fields.get("split"):
        if split not in get_args(Split):
            raise RowError(f"split = {split!r}: must be {', '.join(get_args(Split))} or empty")
        if file.split not in (None, split):
            raise RowError(f"split = {split!r}: {path} is in {file.split!r} by an earlier line")
        file.split = split  # type: ignore[assignment]
    label, text = fields.get("label") or None, fields.get("text") or None
    if label or text:
        file.annotations.append(Annotation(task, label, start_s, end_s, text))


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
    return _Reader(source, download_dir / source.name, storage).collect()


def collect_urls(source: UrlsSource, download_dir: Path, fetch: FetchParams) -> Collection:
    """Fetch what a list of addresses names to `download_dir/<name>` and describe every file of it.

    What is there already is not asked for again, and what no longer belongs is removed.

    Raises:
        StageError: the list or its labels cannot be read, or the disk is full.
    """
    folder = download_dir / source.name
    media = AddressedMedia(read_addresses(source.addresses), folder, fetch)
    return _Reader(source, folder, media).collect()


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

    def __init__(self, source: LabelledSource, folder: Path, media: Media) -> None:
        """List the files; read the labels and the file of all captions."""
        self._source, self._folder, self._media = source, folder, media
        self._listed = media.list_files()
        self._files = {file.name: file for file in reversed(self._listed)}
        """By name; the first of files with equal names counts."""
        texts, self._names = set(), []

        # A video comes before a sound of its name, and has the captions.
        def order(name: str) -> tuple[bool, str]:
            return PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES.split(), name

        for name in sorted(self._files, key=order):
            file = self._files[name]
            if PurePosixPath(name).suffix.lower() in MEDIA_SUFFIXES and file.problem != HIDDEN:
                self._names.append(name)
            if is_caption_file(name) and not file.problem and name != source.labels_csv:
                texts.add(name)
        self._captions = match_captions(self._names, texts)
        """Caption files of a media file; the first one is used."""
        self._unusable: dict[str, tuple[str, str]] = {}
        """Caption files passed over: the media file of each, and why."""
        texts -= {name for names in self._captions.values() for name in names}
        self._labels = self._read_labels()
        self._corpus_captions: dict[str, dict[str, str]] = {}
        """Captions by the stem of the video, for each file of all captions."""
        self._num_others: Counter[str] = Counter()
        stems = {PurePosixPath(name).stem for name in self._names}
        for name in (name for name in CORPUS_CAPTIONS if name in texts):
            found = self._corpus_captions[name] = {}
            with media.open(self._files[name]) as stream:
                for video, captions in stream_captions(stream, name):
                    if video in stems:
                        found[video] = captions
                    else:
                        self._num_others[name] += 1
        self._collection = Collection(source.name)

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

    def collect(self) -> Collection:
        """Fetch the media and their captions, and describe all files."""
        self._problems = self._fetch()
        for name in self._names:
            captions: dict[str, Any] = {}
            if name in self._captions:
                first = self._captions[name][0]
                captions = describe_captions(self._source.name, first, self._problems[first])
            elif not self._problems[name]:
                captions = self._write_captions(name)
            self._add(name, self._problems[name], captions)
        self._add_others()
        for number, file in enumerate(self._listed):
            if file is not self._files[file.name]:
                reason = f"another file is called {file.name} too"
                self._add(f"{file.name} (file {number})", reason)
        known = {compose(entry.video_id) for entry in self._collection.entries}
        fetched = set(map(compose, self._problems))
        for name in sorted(self._labels.keys() - known):
            labels = self._labels[name]
            # A caption file in use may be listed, without label or text of its own.
            if name not in fetched or labels.annotations:
                reason = f"{labels.place}: path = {name!r}: is no media file of the folder"
                self._add(name, reason)
        for name, missing in self._num_others.items():
            total = missing + len(self._corpus_captions[name])
            self._collection.ignore(name, f"{missing} of its {total} videos are not in the folder")
        return self._collection

    def _fetch(self) -> dict[str, str | None]:
        """Fetch the media, and with each the first of its files that holds captions.

        A file that holds none is passed over if there are others, or if its suffix says little. It
        stays in the folder, so that it is not fetched again to look into it.
        """
        unchecked = list(self._captions)
        # Where an earlier run passed over the first choice, what it used instead stays meanwhile.
        choices = {name for names in self._captions.values() for name in names}
        here = {name for name in choices if (self._folder / name).is_file()}
        while True:
            used = {files[0] for files in self._captions.values()}
            needed = {*self._names, *used, *self._unusable}
            files = [self._files[name] for name in sorted(needed | here)]
            problems = fetch_media(self._media, files, self._folder)
            faults = {}
            for media in unchecked:
                first, *others = self._captions[media]
                is_certain = PurePosixPath(first).suffix.lower() in FOR_CAPTIONS_ALONE
                if (others or not is_certain) and not problems[first]:
                    faults[media] = _find_fault(self._folder / first)
            passed = {media: fault for media, fault in faults.items() if fault}
            for media, fault in passed.items():
                self._unusable[self._captions[media].pop(0)] = media, fault
            self._captions = {media: files for media, files in self._captions.items() if files}
            unchecked = [media for media in passed if media in self._captions]
            if not unchecked:
                for name in here - needed:
                    (self._folder / name).unlink(missing_ok=True)
                return {name: problems[name] for name in problems if name in needed}

    def _add_others(self) -> None:
        """Account for files that are neither media nor captions in use."""
        used_by = {media: files[0] for media, files in self._captions.items()}
        used = {other: first for first, *others in self._captions.values() for other in others}
        others = self._files.keys() - self._problems.keys() - self._corpus_captions.keys()
        for name in sorted({*others, *self._unusable} - {self._source.labels_csv}):
            problem = self._files[name].problem
            is_caption = PurePosixPath(name).suffix.lower() in FOR_CAPTIONS_ALONE
            # A name that cannot be read may be a folder or an archive of media.
            may_hold_input = is_caption or name.endswith(("/", *ARCHIVES))
            if problem and problem != HIDDEN and may_hold_input:
                self._add(name, problem)
            elif problem:
                self._collection.ignore(name, problem)
            elif name in self._unusable:
                media, fault = self._unusable[name]
                instead = f"; {used_by[media]} is used instead" if media in used_by else ""
                self._collection.ignore(name, fault + instead)
            elif name in used:
                self._collection.ignore(name, f"{used[name]} is used instead")
            elif is_caption:
                self._add(name, "no media file of the same name is beside this caption file")
            else:
                self._collection.ignore(name, "neither a media file nor the captions of one")

    def _add(
        self, name: str, reason: str | None = None, captions: dict[str, Any] | None = None
    ) -> None:
        """Add a row with what the labels say; the folder of the file is one, too, if asked for."""
        source, labels = self._source, self._labels.get(compose(name), FileLabels(""))
        split = labels.split or draw_split(name, source.validation_rate, source.test_rate)
        notes, folder = tuple(labels.annotations), PurePosixPath(name).parent.name
        if source.labels_from_folders and folder:
            notes += (Annotation(source.labels_from_folders, folder),)
        self._collection.add(name, split, notes, None if reason else captions, reason)

    def _write_captions(self, name: str) -> dict[str, Any]:
        """Write a caption file from HowTo100M's file of all captions, or the labels' narration.

        Returns:
            The fields of the row of the media file; none where nobody says what is said in it.
        """
        stem = PurePosixPath(name).stem
        texts = next((c[stem] for c in self._corpus_captions.values() if stem in c), None)
        suffix = "json"
        if texts is None:
            narration = self._labels.get(compose(name), FileLabels("")).narration()
            if not narration:
                return {}
            table = io.StringIO()
            rows = [("start", "end", "text"), *narration]
            csv.writer(table, lineterminator="\n").writerows(rows)
            texts, suffix = table.getvalue(), "csv"
        path = PurePosixPath(CAPTIONS_DIR, name)
        file = str(path.with_name(extend_name(path.name, f".{suffix}")))
        with atomic_path(self._folder / file) as partial:
            partial.write_text(texts, encoding="utf-8")
        return describe_captions(self._source.name, file)


def _find_fault(path: Path) -> str | None:
    """Return why a caption file cannot be used, None if it holds captions."""
    try:
        track = read_captions(path)
    except CaptionError as error:
        return str(error).removeprefix(f"{path}: ")
    return None if track.captions else "holds no captions"
