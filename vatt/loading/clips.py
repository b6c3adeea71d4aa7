"""Windows of stored segments, read at any place: pictures, sound and captions (VATT section 4.2).

`decode_video` decodes a few frames, of which a `View` is scaled and cut; `ClipReader` finds what a
segment has in its shard.
"""

import copy
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av
import numpy as np
import pandas as pd
import torch
from av.error import FFmpegError
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from vatt.corpus.index import SHARDS_NAME, read_index
from vatt.corpus.samples import FIELDS
from vatt.corpus.shards import (
    HEADER_BYTES,
    SUFFIXES,
    LocalShards,
    Member,
    ShardError,
    Shards,
    UnreadableError,
    cut_member,
)
from vatt.corpus.tokenizer import PAD_ID, open_tokenizer
from vatt.media.audio import decode_audio
from vatt.media.captions import Caption, choose_candidates
from vatt.media.decoding import MediaError
from vatt.media.video import Box
from vatt.params import AUDIO_RATE_HZ, ClipParams

MARGIN_PX = 8
"""Pixels around a box whose colours those of the box depend on; even."""
# The decoder that looks at a file when it is opened need not decode what is not kept.
PROBING = {"skip_frame": "all"}
# As `BILINEAR` of vatt.media.video; the colours of H.264 lie at the left of their pixels.
SCALING = "flags=bilinear+accurate_rnd+bitexact+full_chroma_inp+full_chroma_int:in_chroma_loc=left"
Place = int | float
"""A frame, or a place between two where there are no pictures."""
Window = dict[str, Tensor]
"""What a network takes of a window, and what it learns from it, by the names in `Batch`."""
Decoded = TypeVar("Decoded")


class View(NamedTuple):
    """What is shown of a picture: a box of it is scaled to a size, then a part is cut out."""

    size_px: tuple[int, int]
    """Height and width after scaling."""
    part: Box | None = None
    """None is all of what was scaled."""
    box: Box | None = None
    """None is the whole stored picture."""
    is_flipped: bool = False
    """Whether left and right change places."""


def decode_video(
    data: bytes, first_frame: int, num_frames: int, view: View
) -> UInt8[np.ndarray, "T H W 3"]:
    """Return a view of frames of a stored video in RGB.

    Only what these frames need is decoded: from the key frame before them. In memory the colours
    lie apart, so that the transposed array (T 3 H W) is contiguous.

    Raises:
        MediaError: the video is damaged or ends too early.
    """
    shown_px = view.part[2:] if view.part else view.size_px
    planes = np.empty((num_frames, 3, *shown_px), np.uint8)
    number, filters = 0, None
    try:
        with av.open(BytesIO(data), format="mp4", options=PROBING) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            first_pts = round((first_frame - 0.5) / stream.average_rate / stream.time_base)
            if first_frame:
                container.seek(first_pts, stream=stream)
            for frame in container.decode(stream):
                if frame.pts < first_pts:
                    continue
                filters = filters or _open_filters(frame, view)
                filters.push(frame)
                green, blue, red = filters.pull().planes
                for target, plane in zip(planes[number], (red, green, blue), strict=True):
                    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                    target[:] = rows[: plane.height, : plane.width]
                number += 1
                if number == num_frames:
                    break
    except (FFmpegError, IndexError) as error:
        raise MediaError(f"the video cannot be decoded: {error}") from error
    if number < num_frames:
        raise MediaError(f"the video ends at frame {first_frame + number}")
    return planes.transpose(0, 2, 3, 1)


def _open_filters(frame: Any, view: View) -> Any:
    """Return filters of FFmpeg that show a view of frames like this one in planar RGB."""
    steps: list[tuple[str, str]] = []
    if view.box is not None:
        # A box of the stored colours could begin at even pixels only. So it is cut out with a
        # margin first, and then, in RGB, without it.
        top_px, left_px, height_px, width_px = view.box
        top, left = (max(0, side - side % 2 - MARGIN_PX) for side in (top_px, left_px))
        height = min(frame.height, top_px + height_px + MARGIN_PX) - top
        width = min(frame.width, left_px + width_px + MARGIN_PX) - left
        around = Box(top, left, height + height % 2, width + width % 2)
        inside = Box(top_px - top, left_px - left, height_px, width_px)
        steps = [_cut(around), ("scale", SCALING), ("format", "gbrp"), _cut(inside)]
    # Planar RGB has the same values as rgb24, and swscale is several times as fast.
    shown_height_px, shown_width_px = view.size_px
    steps += [("scale", f"{shown_width_px}:{shown_height_px}:{SCALING}"), ("format", "gbrp")]
    steps += [] if view.part is None else [_cut(view.part)]
    steps += [("hflip", "")] if view.is_flipped else []
    graph = av.filter.Graph()
    graph.threads = 1
    last = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    for name, arguments in [*steps, ("buffersink", "")]:
        node = graph.add(name, arguments)
        last.link_to(node)
        last = node
    graph.configure()
    return graph


def _cut(box: Box) -> tuple[str, str]:
    return "crop", f"{box.width_px}:{box.height_px}:{box.left_px}:{box.top_px}"


def to_signal(video: UInt8[Tensor, "*K T H W 3"]) -> Float[Tensor, "*K T H W 3"]:
    """Turn bytes to numbers in [-1, 1]."""
    return video.contiguous().float().div_(255).mul_(2).sub_(1)


class ClipReader:
    """Reads windows of the segments of a preprocessed corpus.

    A segment is a row of `read_rows` or of the index, or a `Sample`. A window is `clip.num_frames`
    frames from a start frame on, and the sound of the same time. What is shorter than a window
    repeats from its beginning. All that read windows raise ShardError if the shard is damaged.
    """

    def __init__(
        self, preprocess_dir: Path, clip: ClipParams, shards: Shards | None = None
    ) -> None:
        """Open a corpus; its shards are in its folder `shards`, or where `shards` says."""
        self.clip = clip
        self.preprocess_dir = preprocess_dir
        self._shards = shards or LocalShards(preprocess_dir / SHARDS_NAME)
        self._tokenizer = open_tokenizer(preprocess_dir)
        # The members of a segment stand together and are read at once, also for other sizes.
        self._read_range = lru_cache(maxsize=1)(self._shards.read)
        self._rows: dict[str, pd.DataFrame] = {}

    def resize(self, clip: ClipParams) -> "ClipReader":
        """Return a reader of windows of other sizes that reads what both need only once."""
        reader = copy.copy(self)
        reader.clip = clip
        return reader

    def read_rows(self, split: str) -> pd.DataFrame:
        """Return what is needed to read the segments of a split; it is kept.

        Raises:
            StageError: the index cannot be read.
        """
        if split not in self._rows:
            columns = [*FIELDS, "descriptions"]
            self._rows[split] = read_index(self.preprocess_dir, split=split, columns=columns)
        return self._rows[split]

    def read_video(self, segment: Any, start_frame: int, view: View) -> Float[Tensor, "T H W 3"]:
        """Return the pictures of a window in [0, 1]; grey if the segment has none."""
        size_px = self.clip.frame_size_px
        if not segment.has_video:
            return torch.full((self.clip.num_frames, size_px, size_px, 3), 0.5)
        return self.read_pictures(segment, start_frame, view).contiguous().float().div_(255)

    def read_pictures(self, segment: Any, start_frame: int, view: View) -> UInt8[Tensor, "T H W 3"]:
        """Return the pictures of a window of a segment that has some, as bytes."""
        num_frames = min(self.clip.num_frames, int(segment.num_frames))
        window = self.read_frames(segment, start_frame, num_frames, view)
        return torch.from_numpy(_repeat(window, self.clip.num_frames))

    def read_frames(
        self, segment: Any, first_frame: int, num_frames: int, view: View
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """Return a view of frames of a segment that has pictures."""
        return self._decode(segment, "video", decode_video, first_frame, num_frames, view)

    def read_audio(self, segment: Any, start_frame: Place) -> Float[Tensor, " S"]:
        """Return the sound of a window in [-1, 1]; zeros if the segment has none."""
        if not segment.has_audio:
            return torch.zeros(self.clip.num_samples)
        num_samples = min(self.clip.num_samples, int(segment.num_samples))
        # The sound of a window may be up to a frame longer than its pictures.
        start = round(start_frame / segment.frame_rate_hz * AUDIO_RATE_HZ)
        start = min(start, int(segment.num_samples) - num_samples)
        samples = self._decode(segment, "audio", decode_audio, start, num_samples)
        return torch.from_numpy(_repeat(samples, self.clip.num_samples)).float() / 32768

    def read_narration(self, segment: Any, start_frame: int, num_texts: int) -> list[str]:
        """Return the captions nearest in time to the middle of a window, the nearest first."""
        if not segment.num_context_captions:
            return []
        meta = self._decode(segment, "meta", json.loads)
        captions = [Caption(**caption) for caption in meta["captions"]]
        middle_s = (start_frame + self.clip.num_frames / 2) / segment.frame_rate_hz
        return [caption.text for caption in choose_candidates(captions, middle_s, num_texts)]

    def encode_texts(self, segment: Any, texts: Sequence[str], num_texts: int) -> Window:
        """Return the ids of `num_texts` texts of a segment and the masks, as in `Batch`."""
        padded = [*texts, *[""] * (num_texts - len(texts))]
        ids = self._tokenizer.encode(padded, self.clip.num_tokens)
        has_audio = torch.tensor(bool(segment.has_audio))
        return {"text": ids, "audio_mask": has_audio, "text_mask": (ids != PAD_ID).any(-1)}

    def _decode(
        self, segment: Any, kind: str, decode: Callable[..., Decoded], *arguments: Any
    ) -> Decoded:
        """Return what `decode` makes of a member of a segment, which is cut out of all of them."""
        members = {
            each: Member(
                shard_path=self._shards.locate(segment.shard),
                name=segment.key + suffix,
                offset=int(getattr(segment, f"{each}_offset")),
                num_bytes=int(getattr(segment, f"{each}_bytes")),
            )
            for each, suffix in SUFFIXES.items()
        }
        member, present = members[kind], [one for one in members.values() if one.num_bytes]
        begin = min(one.offset for one in present) - HEADER_BYTES
        end = max(one.offset + one.num_bytes for one in present)
        try:
            content = self._read_range(segment.shard, begin, end)
            return decode(cut_member(content, begin, member), *arguments)
        except (MediaError, UnreadableError) as error:
            raise ShardError(f"{member}: {error}") from error


def _repeat(values: Shaped[np.ndarray, "_ ..."], length: int) -> Shaped[np.ndarray, "_ ..."]:
    """Return `length` values that start again from the first one after the last."""
    return values if len(values) == length else values[np.arange(length) % len(values)]
