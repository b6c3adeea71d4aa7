"""Fragments: a source file becomes encoded segments, a piece of a shard, and their index rows."""

import dataclasses
import errno
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vatt.core.disk import REFUSALS
from vatt.core.files import digest_file
from vatt.corpus.index import Segment
from vatt.corpus.manifest import ManifestEntry
from vatt.corpus.shards import write_members
from vatt.media.audio import encode_audio
from vatt.media.captions import Caption, CaptionError, read_captions
from vatt.media.probe import MediaError
from vatt.media.video import encode_video
from vatt.params import AUDIO_RATE_HZ, PreprocessParams
from vatt.preprocess.cuts import Cut, annotate, cut_file, measure_words, select_context
from vatt.preprocess.hashes import hash_pictures
from vatt.preprocess.listening import Heard, Listener
from vatt.preprocess.measures import (
    estimate_timing,
    measure_black,
    measure_clipping,
    measure_freezing,
    measure_silence,
)

DISK_ERRORS = {*REFUSALS, errno.EIO}


class Outcome(NamedTuple):
    """What became of one row of the manifest: segments, or the reason why there are none."""

    segments: list[Segment]
    """Their offsets are those in the fragment."""
    texts: list[str]
    """All captions of the file."""
    reason: str | None = None


def key_of(entry: ManifestEntry) -> str:
    """Return the start of the keys of a video: the same wherever the corpus is, of [0-9a-f]."""
    name = f"{entry.source}/{entry.video_id}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(name, digest_size=8).hexdigest()


def write_fragment(
    download_dir: Path, fragments_dir: Path, params: PreprocessParams, entry: ManifestEntry
) -> Outcome:
    """Cut one file and write its segments as tar members to `fragments_dir`, under its key.

    Whatever is wrong with the file becomes the reason of the outcome.

    Raises:
        OSError: the disk is full or broken: it is no fault of the file.
    """
    if entry.path is None:
        return Outcome([], [], entry.reason)
    try:
        return _write(entry, download_dir, params, fragments_dir / key_of(entry))
    except MediaError as error:
        reason = str(error)
    except Exception as error:  # decoders raise all kinds of errors on broken files
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        reason = f"{type(error).__name__}: {error}"
    return Outcome([], [], reason)


def _write(
    entry: ManifestEntry, download_dir: Path, params: PreprocessParams, fragment_path: Path
) -> Outcome:
    path = download_dir / str(entry.path)
    problems = [entry.caption_problem] if entry.caption_problem else []
    captions = _read_captions(entry, download_dir, problems)
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
    _note_lost_descriptions(entry, segments, problems)
    facts: dict[str, Any] = {
        "source_digest": digest_file(path),
        "captions_outside": sum(caption.start_s >= segments[-1].end_s for caption in captions),
        "problem": "; ".join(problems) or None,
    }
    heard = listener.finish()
    if heard:
        timing = estimate_timing(heard.speech, captions)
        facts |= {"caption_offset_s": timing.offset_s, "caption_score": timing.score}
    segments = [
        dataclasses.replace(segment, **facts, **_describe_sound(segment, heard))
        for segment in segments
    ]
    return Outcome(segments, [caption.text for caption in captions])


def _read_captions(entry: ManifestEntry, download_dir: Path, problems: list[str]) -> list[Caption]:
    """Return the captions of a file; captions that cannot be read are a problem, not the end."""
    if entry.captions_path is None or entry.captions_format is None:
        return []
    try:
        transcript = read_captions(download_dir / entry.captions_path, entry.captions_format)
    except CaptionError as error:
        problems.append(str(error))
        return []
    if transcript.problem:
        problems.append(transcript.problem)
    return transcript.captions


def _note_lost_descriptions(
    entry: ManifestEntry, segments: Sequence[Segment], problems: list[str]
) -> None:
    """Note how many descriptions no segment has: beyond the end of the file, or in a gap of it."""
    kept = {text for segment in segments for text in json.loads(segment.descriptions)}
    texts = [annotation.text for annotation in entry.annotations if annotation.task == "caption"]
    num_lost = sum(text is not None and text not in kept for text in texts)
    if num_lost:
        problems.append(f"{num_lost} of {len(texts)} descriptions are of parts that it lacks")


def _describe_sound(segment: Segment, heard: Heard | None) -> dict[str, Any]:
    """Return the fields of a row that say what was heard in it."""
    if heard is None or not segment.has_audio:
        return {}
    return {
        "speech_rate": heard.measure_speech(segment.start_s, segment.end_s),
        "sound_hashes": heard.cut_hashes(segment.start_s, segment.end_s),
    }


def _describe(
    entry: ManifestEntry,
    number: int,
    cut: Cut,
    captions: Sequence[Caption],
    params: PreprocessParams,
) -> Segment:
    """Return the row of a piece, still without its places and the facts of the whole file."""
    start_s, end_s = cut.start_s, cut.start_s + len(cut.pictures) / params.frame_rate_hz
    pictures = [picture for picture in cut.pictures if picture is not None]
    height_px, width_px = pictures[0].shape[:2] if pictures else (0, 0)
    has_audio = cut.sound.num_covered > 0
    num_captions, words_per_second = measure_words(captions, start_s, end_s)
    labels, descriptions = annotate(entry.annotations, start_s, end_s)
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
        video_duration_s=len(pictures) / params.frame_rate_hz if pictures else math.nan,
        audio_duration_s=cut.sound.num_covered / AUDIO_RATE_HZ if has_audio else math.nan,
        start_offset_s=cut.start_offset_s,
        caption_words_per_second=words_per_second,
        silent_rate=measure_silence(cut.sound.samples) if has_audio else math.nan,
        clipped_rate=measure_clipping(cut.sound.samples) if has_audio else math.nan,
        black_rate=measure_black(pictures),
        frozen_rate=measure_freezing(pictures),
        picture_hashes="".join(hash_pictures(cut.pictures, start_s, params.frame_rate_hz)),
        labels=json.dumps(labels, sort_keys=True, ensure_ascii=False),
        descriptions=json.dumps(descriptions, ensure_ascii=False),
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
    meta = {
        "key": segment.key,
        "source": segment.source,
        "video_id": segment.video_id,
        "start_s": segment.start_s,
        "end_s": segment.end_s,
        "captions": [dataclasses.asdict(caption) for caption in captions],
        "labels": json.loads(segment.labels),
        "descriptions": json.loads(segment.descriptions),
    }
    members["meta"] = json.dumps(meta, sort_keys=True, ensure_ascii=False).encode()
    return members
