"""Cutting: a source file becomes pieces of picture and sound that start and end together.

`cut_file` yields the pieces; the functions below it choose the captions and labels that belong to
one of them, for the index and the shards.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vatt.corpus.manifest import Annotation
from vatt.media.audio import AudioReader, Sound
from vatt.media.captions import Caption
from vatt.media.decoding import FrameReader, MediaError, best_stream, open_media
from vatt.media.video import FrameScaler, Picture, sample_frames
from vatt.params import AUDIO_RATE_HZ, CutParams
from vatt.preprocess.words import count_words

TOLERANCE_S = 0.01
"""Sound that lasts this much longer than the last frame does not begin another frame."""
LOST_END_S = 1.0
"""A file that ends this much before its declared length has lost its end."""
MAX_GAP_S = 10.0
"""A picture that stays for longer than this, without the file's sound, is a gap of the file."""
MIN_SHARE = 0.5
"""A label holds for a segment if its time range covers this share of it; a description, also if
this share of its own time range is in the segment."""


@dataclass(frozen=True)
class Cut:
    """A piece of a source file."""

    start_s: float
    """On the time line of the file."""
    pictures: list[Picture | None]
    """None where the source shows nothing."""
    sound: Sound
    """As long as the pictures."""
    start_offset_s: float
    """Start of the sound minus start of the picture, in the whole file; NaN if one is absent."""

    @property
    def num_pictures(self) -> int:
        """Frames that the source shows."""
        return sum(picture is not None for picture in self.pictures)

    def hold_pictures(self) -> list[Picture]:
        """Return a picture for every frame: that of the source, or else the last one before it.

        The first one of the source also stands where nothing is before it.
        """
        held = next(picture for picture in self.pictures if picture is not None)
        return [held := held if picture is None else picture for picture in self.pictures]


class _Track(NamedTuple):
    """A stream of which one frame has been decoded."""

    stream: Any
    reader: FrameReader
    start_s: float
    first_frame: Any
    frames: Iterator[tuple[float, Any]]


def cut_file(path: Path, params: CutParams, problems: list[str]) -> Iterator[Cut]:
    """Yield the pieces of a file, of `segment_s` each; at most two are in memory.

    A rest below `min_segment_s` belongs to the piece before it. A piece where the source shows
    nothing new and has no sound is left out. Losses are described in `problems`.

    Raises:
        MediaError: nothing can be decoded, or time stamps or picture are absurd.
    """
    with ExitStack() as stack:
        video = _open_track(path, "video", problems, stack)
        audio = _open_track(path, "audio", problems, stack)
        tracks = [track for track in (video, audio) if track]
        if not tracks:
            raise MediaError("; ".join(problems) or "there is no picture and no sound")
        origin_s = end_s = min(track.start_s for track in tracks)
        held, held_s = None, 0.0
        pieces = _read_pieces(origin_s, video, audio, params, problems)
        for cut in _join_short_rest(pieces, params):
            end_s = cut.start_s + len(cut.pictures) / params.frame_rate_hz
            is_new = any(picture is not None and picture is not held for picture in cut.pictures)
            is_shown = is_new or (cut.num_pictures > 0 and (audio is None or held_s < MAX_GAP_S))
            if is_shown or cut.sound.num_covered:
                yield cut
            held_s = 0.0 if is_new else held_s + len(cut.pictures) / params.frame_rate_hz
            held = cut.pictures[-1] if cut.pictures else None
        problems += _find_lost_end(tracks, end_s)


def _find_lost_end(tracks: Iterable[_Track], end_s: float) -> list[str]:
    """Return that the file ends before its declared end, if it does.

    That is where the streams end, if their headers say so, else where the file does, which other
    streams may also do, such as subtitles.
    """
    declared_s = 0.0
    for stream, reader, *_ in tracks:
        declared_s = max(declared_s, reader.declared_end_s)
        if stream.duration is None:
            end_s = max(end_s, reader.file_end_s)
    if end_s < declared_s - LOST_END_S:
        return [f"the file ends at {end_s:.2f} s of {declared_s:.2f} s"]
    return []


def _open_track(
    path: Path, kind: Literal["video", "audio"], problems: list[str], stack: ExitStack
) -> _Track | None:
    """Open the best stream of a kind; each kind reads the file by itself, at its own pace."""
    container = stack.enter_context(open_media(path))
    stream = best_stream(path, container, kind)
    if stream is None:
        return None
    reader = FrameReader(container, stream, problems)
    frames = reader.read()
    first = next(frames, None)
    if first is None:
        problems.append(f"{kind}: nothing can be decoded")
        return None
    return _Track(stream, reader, first[0], first[1], chain([first], frames))


def _read_pieces(
    origin_s: float,
    video: _Track | None,
    audio: _Track | None,
    params: CutParams,
    problems: list[str],
) -> Iterator[Cut]:
    """Yield pieces of `segment_s`, one after another; from the end of the file on, empty ones."""
    rate_hz = params.frame_rate_hz
    start_offset_s = audio.start_s - video.start_s if audio and video else math.nan
    shown: Iterator[Picture | None] = iter(())
    if video:
        scaler = FrameScaler(video.stream, video.first_frame, params.short_side_px)
        problems += scaler.guesses
        shown = sample_frames(video.frames, scaler, origin_s, rate_hz)
    heard = AudioReader(audio.frames if audio else iter(()), origin_s)
    num_frames = max(1, round(params.segment_s * rate_hz))
    first = 0
    while True:
        # The first sample is heard with the first frame, whatever was rounded before.
        begin = round(first / rate_hz * AUDIO_RATE_HZ)
        pictures = list(islice(shown, num_frames))
        num_samples = round((first + num_frames) / rate_hz * AUDIO_RATE_HZ) - begin
        samples, num_covered = heard.read(num_samples)
        sound_s = len(samples) / AUDIO_RATE_HZ - TOLERANCE_S
        num_read = max(len(pictures), min(num_frames, math.ceil(sound_s * rate_hz)))
        length = round((first + num_read) / rate_hz * AUDIO_RATE_HZ) - begin
        samples = np.pad(samples[:length], (0, max(0, length - len(samples))))
        pictures += [None] * (num_read - len(pictures))
        sound = Sound(samples, min(num_covered, length))
        yield Cut(origin_s + first / rate_hz, pictures, sound, start_offset_s)
        first += num_read


def _join_short_rest(pieces: Iterator[Cut], params: CutParams) -> Iterator[Cut]:
    """Yield pieces, the last one with what is too short for a piece of its own."""
    cut = next(pieces)
    while len((rest := next(pieces)).pictures) >= params.min_segment_s * params.frame_rate_hz:
        yield cut
        cut = rest
    sound = Sound(
        np.concatenate([cut.sound.samples, rest.sound.samples]),
        cut.sound.num_covered + rest.sound.num_covered,
    )
    yield Cut(cut.start_s, cut.pictures + rest.pictures, sound, cut.start_offset_s)


def overlap_s(item: Caption | Annotation, start_s: float, end_s: float) -> float:
    """Return for how long an item and a time range overlap; no time means the whole file."""
    begin = start_s if item.start_s is None else max(start_s, item.start_s)
    end = end_s if item.end_s is None else min(end_s, item.end_s)
    return max(0.0, end - begin)


def select_context(
    captions: Iterable[Caption], start_s: float, end_s: float, context_s: float
) -> list[Caption]:
    """Return the captions up to `context_s` away from a segment, timed from its start."""
    return [
        dataclasses.replace(
            caption,
            start_s=round(caption.start_s - start_s, 6),
            end_s=round(caption.end_s - start_s, 6),
        )
        for caption in captions
        if overlap_s(caption, start_s - context_s, end_s + context_s) > 0
    ]


def measure_words(captions: Sequence[Caption], start_s: float, end_s: float) -> tuple[int, float]:
    """Return how many captions overlap a segment, and the words per second that they make in it.

    A caption that overlaps in part counts with that share of its words. NaN without captions.
    """
    shares = [
        (overlap_s(caption, start_s, end_s) / (caption.end_s - caption.start_s), caption.text)
        for caption in captions
    ]
    spoken = [(share, text) for share, text in shares if share > 0]
    if not spoken:
        return 0, math.nan
    num_words = sum(share * count_words(text) for share, text in spoken)
    return len(spoken), num_words / (end_s - start_s)


def annotate(
    annotations: Iterable[Annotation], start_s: float, end_s: float
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the labels of every task, and the descriptions, that hold for a segment.

    Those that overlap it most come first; equals keep the manifest's order; none appears twice. A
    description of a part that is shorter than segments holds for the one that it overlaps most: as
    a query, it must not be lost.
    """
    holding: list[tuple[float, str, str]] = []
    for annotation in annotations:
        value = annotation.text if annotation.task == "caption" else annotation.label
        length_s = overlap_s(annotation, start_s, end_s)
        whole_s = end_s - start_s
        begin_s, stop_s = annotation.start_s, annotation.end_s
        if annotation.task == "caption" and begin_s is not None and stop_s is not None:
            whole_s = min(whole_s, stop_s - begin_s - 1e-6)
        if value is not None and length_s > 0 and length_s >= MIN_SHARE * whole_s:
            holding.append((length_s, annotation.task, value))
    holding.sort(key=lambda item: -item[0])
    values: dict[str, dict[str, None]] = {}  # a dict as a set that keeps its order
    for _, task, value in holding:
        values.setdefault(task, {})[value] = None
    descriptions = list(values.pop("caption", {}))
    return {task: list(labels) for task, labels in values.items()}, descriptions
