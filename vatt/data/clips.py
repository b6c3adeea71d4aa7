"""Windows of stored segments: their pictures, sound and captions, read at random places."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vatt.batch import Batch
from vatt.data.audio import decode_audio
from vatt.data.augment import View
from vatt.data.index import SHARDS_NAME, read_index
from vatt.data.media import MediaError
from vatt.data.shards import SUFFIXES, Member, ShardError, read_member
from vatt.data.tokenizer import open_tokenizer
from vatt.data.video import decode_video
from vatt.params import AUDIO_RATE_HZ, ClipParams


class Clip(NamedTuple):
    """One window of a segment; see `Batch` for the ranges and the masks."""

    video: Float[Tensor, "T H W 3"]
    audio: Float[Tensor, " S"]
    text: Int[Tensor, "P L"]
    audio_mask: Bool[Tensor, ""]
    text_mask: Bool[Tensor, " P"]


def collate(clips: Sequence[Clip]) -> Batch:
    """Stack clips to a batch."""
    return Batch(*(torch.stack(parts) for parts in zip(*clips, strict=True)))


class ClipReader:
    """Reads windows of the segments of a preprocessed corpus; `index` has a row for each segment.

    A window is `clip.num_frames` frames from a start frame on, and the sound of the same time. What
    is shorter than a window repeats from its beginning.
    """

    def __init__(self, preprocess_dir: Path, clip: ClipParams) -> None:
        self.index = read_index(preprocess_dir)
        self.clip = clip
        self.preprocess_dir = preprocess_dir
        self._tokenizer = open_tokenizer(preprocess_dir)

    def read_video(self, segment: Any, start_frame: int, view: View) -> Float[Tensor, "T H W 3"]:
        """Return the pictures of a window in [0, 1]; grey if the segment has none.

        Raises:
            ShardError: the shard is damaged.
        """
        size_px = self.clip.frame_size_px
        if not segment.has_video:
            return torch.full((self.clip.num_frames, size_px, size_px, 3), 0.5)
        num_frames = min(self.clip.num_frames, int(segment.num_frames))
        member = self._member(segment, "video")
        try:
            pictures = decode_video(
                read_member(member),
                start_frame,
                num_frames,
                (view.height_px, view.width_px),
                view.box,
            )
        except MediaError as error:
            raise ShardError(f"{member}: {error}") from error
        rows = slice(view.top_px, view.top_px + size_px)
        columns = slice(view.left_px, view.left_px + size_px)
        window = pictures[_repeat(num_frames, self.clip.num_frames), rows, columns]
        if view.is_flipped:
            window = window[:, :, ::-1]
        return torch.from_numpy(np.ascontiguousarray(window)).float() / 255

    def read_audio(self, segment: Any, start_frame: int) -> Float[Tensor, " S"]:
        """Return the sound of a window in [-1, 1]; zeros if the segment has none.

        Raises:
            ShardError: the shard is damaged.
        """
        if not segment.has_audio:
            return torch.zeros(self.clip.num_samples)
        num_samples = min(self.clip.num_samples, int(segment.num_samples))
        # The sound of a window may be up to a frame longer than its pictures.
        start = round(start_frame / segment.frame_rate_hz * AUDIO_RATE_HZ)
        start = min(start, int(segment.num_samples) - num_samples)
        member = self._member(segment, "audio")
        try:
            samples = decode_audio(read_member(member), start, num_samples)
        except MediaError as error:
            raise ShardError(f"{member}: {error}") from error
        window = samples[_repeat(num_samples, self.clip.num_samples)]
        return torch.from_numpy(window).float() / 32768

    def read_narration(self, segment: Any, start_frame: int, num_texts: int) -> list[str]:
        """Return the captions nearest in time to the middle of a window, the nearest first.

        Raises:
            ShardError: the shard is damaged.
        """
        if not segment.num_context_captions:
            return []
        meta = json.loads(read_member(self._member(segment, "meta")))
        middle_s = (start_frame + self.clip.num_frames / 2) / segment.frame_rate_hz
        return select_nearest(meta["captions"], middle_s, num_texts)

    def encode_texts(
        self, texts: Sequence[str], num_texts: int
    ) -> tuple[Int[Tensor, "P L"], Bool[Tensor, " P"]]:
        """Return the ids of `num_texts` texts and which of them hold something."""
        padded = [*texts, *[""] * (num_texts - len(texts))]
        ids = self._tokenizer.encode(padded, self.clip.num_tokens)
        return ids, (ids != 0).any(-1)

    def _member(self, segment: Any, kind: str) -> Member:
        return Member(
            shard_path=self.preprocess_dir / SHARDS_NAME / segment.shard,
            name=segment.key + SUFFIXES[kind],
            offset=int(segment[f"{kind}_offset"]),
            num_bytes=int(segment[f"{kind}_bytes"]),
        )


def select_nearest(captions: Iterable[dict[str, Any]], time_s: float, num_texts: int) -> list[str]:
    """Return the texts of the captions nearest to a time (VATT section 3.4), the nearest first.

    Of captions that are equally near, such as those around the time, the one whose middle is
    nearer, then the earlier one.
    """

    def distance(caption: dict[str, Any]) -> tuple[float, float, float]:
        start_s, end_s = caption["start_s"], caption["end_s"]
        outside_s = max(start_s - time_s, time_s - end_s, 0.0)
        return outside_s, abs((start_s + end_s) / 2 - time_s), start_s

    return [caption["text"] for caption in sorted(captions, key=distance)[:num_texts]]


def _repeat(length: int, wanted: int) -> Any:
    """Index of `wanted` items that starts again at 0 after `length` of them."""
    return slice(None) if length == wanted else np.arange(wanted) % length
