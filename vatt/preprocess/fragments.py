"""Fragments: a source file becomes encoded segments, a piece of a shard, and their index rows.

The store keeps each under a digest of all that decides it (`make_key`). An entry is a file
`fragments/<first two digits of the key>/<key>`: the members of the segments as they stand in a
shard, the outcome as JSON, the length of the JSON (8 bytes), and a BLAKE2b of the key and
everything before (16 bytes).
"""

import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av

from vatt.core.code import digest_code
from vatt.core.disk import REFUSALS
from vatt.core.errors import StageError
from vatt.core.files import digest_file
from vatt.corpus.index import Segment
from vatt.corpus.manifest import ManifestEntry
from vatt.corpus.shards import write_members
from vatt.media.audio import encode_audio
from vatt.media.captions import Caption, read_captions, read_embedded
from vatt.media.decoding import MediaError
from vatt.media.encodings import CaptionError
from vatt.media.video import encode_video
from vatt.params import AUDIO_RATE_HZ, PreprocessParams
from vatt.preprocess.analysis import (
    Listener,
    estimate_timing,
    hash_pictures,
    measure_black,
    measure_clipping,
    measure_freezing,
    measure_silence,
)
from vatt.preprocess.cuts import Cut, annotate, cut_file, measure_words, select_context
from vatt.preprocess.transcripts import Transcript

DISK_ERRORS = {*REFUSALS, errno.EIO}
CODE = (
    *("media", "corpus/index.py", "corpus/manifest.py", "corpus/shards.py"),
    *("preprocess/analysis.py", "preprocess/cuts.py", "preprocess/fragments.py"),
    *("preprocess/transcripts.py", "preprocess/words.py"),
)
"""The code that decides the bytes of a fragment, beside its row and the parameters."""
LIBRARIES = (
    *("av", "chardet", "imagehash", "langcodes", "numpy", "onnxruntime", "pillow", "scipy"),
    "silero-vad",
)
"""The packages that decide what a fragment holds."""
NO_EFFECT = {"segments_per_shard", "vocab_size", "vocabulary", "time_limit_s", "asr"}
"""Parameters that play no part in the segments of a file, or have a digest of their own."""
LABELS = {"annotations", "split"}
"""Fields of a row that are added to its segments later (`add_labels`)."""
LENGTH_BYTES = 8
DIGEST_BYTES = 16
CHUNK_BYTES = 1 << 20


class Outcome(NamedTuple):
    """What became of one row of the manifest: segments, or the reason why there are none."""

    segments: list[Segment]
    """Their offsets are those in the fragment, which lacks their labels."""
    texts: list[str]
    """All captions of the file."""
    reason: str | None = None
    transcript: dict[str, Any] | None = None
    """The fields of its `Transcript`, if it was transcribed."""


def key_of(entry: ManifestEntry) -> str:
    """Return the start of the keys of a video: the same wherever the corpus is, of [0-9a-f]."""
    name = f"{entry.source}/{entry.video_id}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(name, digest_size=8).hexdigest()


def write_fragment(
    download_dir: Path,
    fragments_dir: Path,
    params: PreprocessParams,
    entry: ManifestEntry,
    transcribe: Callable[[], Transcript] | None = None,
) -> Outcome:
    """Cut one file and write its segments as tar members to `fragments_dir`, under its key.

    `transcribe` hears what is said, where the manifest asks for it and the file holds no captions.
    Whatever is wrong with the file becomes the reason of the outcome.

    Raises:
        OSError: the disk is full or broken: it is no fault of the file.
        StageError: the speech recogniser fails: neither is this.
    """
    try:
        return _write(entry, download_dir, params, fragments_dir / key_of(entry), transcribe)
    except StageError:
        raise
    except MediaError as error:
        reason = str(error)
    except Exception as error:  # decoders raise all kinds of errors on broken files
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        reason = f"{type(error).__name__}: {error}"
    return Outcome([], [], reason)


def _write(
    entry: ManifestEntry,
    download_dir: Path,
    params: PreprocessParams,
    fragment_path: Path,
    transcribe: Callable[[], Transcript] | None,
) -> Outcome:
    path = download_dir / str(entry.path)
    problems = [entry.caption_problem] if entry.caption_problem else []
    captions = _read_captions(entry, download_dir, problems)
    transcript = transcribe() if transcribe and not captions else None
    if transcript is not None:
        captions = [Caption(line.start_s, line.end_s, line.text) for line in transcript.lines]
    segments = []
    listener = Listener()
    with fragment_path.open("wb") as fragment:
        for number, cut in enumerate(cut_file(path, params, problems)):
            if cut.sound.num_covered:
                listener.hear(cut.start_s, cut.sound.samples)
            segment = _describe(entry, number, cut, captions, params)
            near = select_context(
                captions, segment.start_s, segment.end_s, params.caption_context_s
            )
            places = write_members(fragment, segment.key, _encode(segment, cut, near, params))
            segments.append(dataclasses.replace(segment, num_context_captions=len(near), **places))
    if not segments:
        raise MediaError("; ".join(problems) or "there is no picture and no sound")
    facts: dict[str, Any] = {
        "source_digest": digest_file(path),
        "captions_outside": sum(caption.start_s >= segments[-1].end_s for caption in captions),
        "problem": "; ".join(problems) or None,
    }
    heard = listener.finish()
    if heard:
        timing = estimate_timing(heard.speech, captions)
        facts |= {"caption_offset_s": timing.offset_s, "caption_score": timing.score}
    for place, segment in enumerate(segments):
        times = segment.start_s, segment.end_s
        sound: dict[str, Any] = {}
        if heard and segment.has_audio:
            sound["speech_rate"] = heard.measure_speech(*times)
            sound["sound_hashes"] = heard.cut_hashes(*times)
        segments[place] = dataclasses.replace(segment, **facts, **sound)
    fields = None if transcript is None else dataclasses.asdict(transcript)
    return Outcome(segments, [caption.text for caption in captions], transcript=fields)


def add_labels(outcome: Outcome, entry: ManifestEntry) -> Outcome:
    """Return an outcome with the split, labels and descriptions that the manifest gives its file.

    A fragment is kept without them, so that changing them decodes nothing again.
    """
    segments, kept = [], set()
    for segment in outcome.segments:
        labels, descriptions = annotate(entry.annotations, segment.start_s, segment.end_s)
        kept.update(descriptions)
        texts: dict[str, Any] = {
            "labels": json.dumps(labels, sort_keys=True, ensure_ascii=False),
            "descriptions": json.dumps(descriptions, ensure_ascii=False),
        }
        segments.append(dataclasses.replace(segment, split=entry.split, **texts))
    given = [annotation.text for annotation in entry.annotations if annotation.task == "caption"]
    num_lost = sum(text is not None and text not in kept for text in given)
    if num_lost and segments:  # they are beyond the end of the file, or in a gap of it
        lost = f"{num_lost} of {len(given)} descriptions are of parts that it lacks"
        problem = "; ".join(filter(None, [segments[0].problem, lost]))
        segments = [dataclasses.replace(segment, problem=problem) for segment in segments]
    return outcome._replace(segments=segments)


def _read_captions(entry: ManifestEntry, download_dir: Path, problems: list[str]) -> list[Caption]:
    """Return the captions beside a file, else those in it.

    Captions that cannot be read are a problem, not the end.
    """
    try:
        if entry.captions_path is None:
            track = read_embedded(download_dir / str(entry.path))
        else:
            track = read_captions(download_dir / entry.captions_path)
    except CaptionError as error:
        problems.append(str(error))
        return []
    if track.problem:
        problems.append(track.problem)
    return track.captions


def _describe(
    entry: ManifestEntry,
    number: int,
    cut: Cut,
    captions: Sequence[Caption],
    params: PreprocessParams,
) -> Segment:
    """Return the row of a piece, without its places, its labels and the facts of the whole file."""
    start_s, end_s = cut.start_s, cut.start_s + len(cut.pictures) / params.frame_rate_hz
    pictures = [picture for picture in cut.pictures if picture is not None]
    height_px, width_px = pictures[0].shape[:2] if pictures else (0, 0)
    has_audio = cut.sound.num_covered > 0
    heard = cut.sound.samples if has_audio else cut.sound.samples[:0]
    num_captions, words_per_second = measure_words(captions, start_s, end_s)
    return Segment(
        key=f"{key_of(entry)}_{number:06d}",
        source=entry.source,
        video_id=entry.video_id,
        split=entry.split,
        start_s=start_s,
        end_s=end_s,
        has_video=bool(pictures),
        has_audio=has_audio,
        num_captions=num_captions,
        num_frames=len(cut.pictures),
        frame_rate_hz=params.frame_rate_hz,
        width_px=width_px,
        height_px=height_px,
        num_samples=len(cut.sound.samples),
        video_duration_s=len(pictures) / params.frame_rate_hz or math.nan,
        audio_duration_s=cut.sound.num_covered / AUDIO_RATE_HZ or math.nan,
        start_offset_s=cut.start_offset_s,
        caption_words_per_second=words_per_second,
        silent_rate=measure_silence(heard),
        clipped_rate=measure_clipping(heard),
        black_rate=measure_black(pictures),
        frozen_rate=measure_freezing(pictures),
        picture_hashes="".join(hash_pictures(cut.pictures, start_s, params.frame_rate_hz)),
        labels="{}",
        descriptions="[]",
    )


def _encode(
    segment: Segment, cut: Cut, captions: Sequence[Caption], params: PreprocessParams
) -> dict[str, bytes]:
    """Return the contents of the members of a segment; an absent picture or sound has none."""
    members = {}
    if segment.has_video:
        members["video"] = encode_video(cut.hold_pictures(), params)
    if segment.has_audio:
        members["audio"] = encode_audio(cut.sound.samples)
    named = ("key", "source", "video_id", "start_s", "end_s")
    meta = {name: getattr(segment, name) for name in named}
    meta["captions"] = [dataclasses.asdict(caption) for caption in captions]
    members["meta"] = json.dumps(meta, sort_keys=True, ensure_ascii=False).encode()
    return members


@cache
def digest_fragment_code() -> str:
    """Return a digest of the modules and the libraries that make fragments, as they are here."""
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    return digest_code(*CODE, beside=(*versions, av.ffmpeg_version_info, str(AUDIO_RATE_HZ)))


def make_key(
    entry: ManifestEntry, files: Sequence[object], params: PreprocessParams, code: str
) -> str:
    """Return the key of the fragment of a file: another one whenever its bytes may be others.

    `files` are the digests of the file and of its captions, `code` is that of the modules.
    """
    values = params.model_dump(mode="json", exclude=NO_EFFECT)
    named = {k: value for k, value in dataclasses.asdict(entry).items() if k not in LABELS}
    parts = [named, files, values, code]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


class FragmentStore:
    """Entries appear whole or not at all; one that is damaged is taken for absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.partial_dir = folder / "partial"
        """Where entries are being made."""

    def path_of(self, key: str, kind: str = "fragments") -> Path:
        """Return where the entry of a key is, or would be; with "known" the link of a status."""
        return self.folder / kind / key[:2] / key

    def add(self, key: str, fragment_path: Path, outcome: Outcome) -> None:
        """Move a fragment to its entry; the file of one without segments may be missing."""
        rows = [vars(segment) for segment in outcome.segments]
        # The numbers that were measured are numpy's.
        content = json.dumps(
            outcome._asdict() | {"segments": rows}, default=lambda number: number.item()
        ).encode()
        with fragment_path.open("ab" if outcome.segments else "wb") as file:
            file.write(content + len(content).to_bytes(LENGTH_BYTES))
        with fragment_path.open("r+b") as file:
            digest = _digest(key, file, fragment_path.stat().st_size)
            file.seek(0, os.SEEK_END)
            file.write(digest)
        path = self.path_of(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        fragment_path.replace(path)

    def read(self, key: str) -> Outcome | None:
        """Return the outcome of an entry, None if there is none or it is damaged.

        The offsets of its segments are those in the file of the entry.
        """
        try:
            with self.path_of(key).open("rb") as file:
                length = os.fstat(file.fileno()).st_size - DIGEST_BYTES
                if length < LENGTH_BYTES or _digest(key, file, length) != file.read(DIGEST_BYTES):
                    return None
                file.seek(length - LENGTH_BYTES)
                json_bytes = int.from_bytes(file.read(LENGTH_BYTES))
                file.seek(length - LENGTH_BYTES - json_bytes)
                content: dict[str, Any] = json.loads(file.read(json_bytes))
        except FileNotFoundError:
            return None
        return Outcome(**content | {"segments": [Segment(**row) for row in content["segments"]]})

    def learn(self, status: str, key: str) -> None:
        """Remember under which key a file of this status is kept, as a symbolic link."""
        path = self.path_of(status, "known")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(key)

    def recall(self, status: str) -> str:
        """Return the key that was learnt for a status; OSError if there is none."""
        return str(self.path_of(status, "known").readlink())

    def remove_all_but(self, names: AbstractSet[str]) -> None:
        """Remove entries of other keys, other statuses, and what was left of unfinished entries."""
        for path in self.folder.glob("*/??/*"):
            if path.name not in names:
                path.unlink()
        self.remove_partial()

    def remove_partial(self) -> None:
        """Remove what killed processes left."""
        shutil.rmtree(self.partial_dir, ignore_errors=True)


def _digest(key: str, file: BinaryIO, length: int) -> bytes:
    """Return the BLAKE2b of a key and the first `length` bytes of a file, which is left there."""
    digest = hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES)
    while length and (chunk := file.read(min(length, CHUNK_BYTES))):
        digest.update(chunk)
        length -= len(chunk)
    return digest.digest()
