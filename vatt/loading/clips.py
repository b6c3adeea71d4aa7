"""Windows of stored segments: their pictures, sound and captions, read at any place."""

import copy
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
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
from vatt.loading.augmentation import to_unit
from vatt.loading.windows import View, decode_video
from vatt.media.audio import decode_audio
from vatt.media.captions import Caption, choose_candidates
from vatt.media.decoding import MediaError
from vatt.params import AUDIO_RATE_HZ, ClipParams

Place = int | float
"""A frame, or a place between two where there are no pictures."""
Window = dict[str, Tensor]
"""What a network takes of a window, and what it learns from it, by the names in `Batch`."""


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
        return to_unit(self.read_pictures(segment, start_frame, view))

    def read_pictures(self, segment: Any, start_frame: int, view: View) -> UInt8[Tensor, "T H W 3"]:
        """Return the pictures of a window of a segment that has some, as bytes."""
        num_frames = min(self.clip.num_frames, int(segment.num_frames))
        member = self._find_member(segment, "video")
        try:
            window = decode_video(self._read(segment, member), start_frame, num_frames, view)
        except MediaError as error:
            raise ShardError(f"{member}: {error}") from error
        return torch.from_numpy(_repeat(window, self.clip.num_frames))

    def read_audio(self, segment: Any, start_frame: Place) -> Float[Tensor, " S"]:
        """Return the sound of a window in [-1, 1]; zeros if the segment has none."""
        if not segment.has_audio:
            return torch.zeros(self.clip.num_samples)
        num_samples = min(self.clip.num_samples, int(segment.num_samples))
        # The sound of a window may be up to a frame longer than its pictures.
        start = round(start_frame / segment.frame_rate_hz * AUDIO_RATE_HZ)
        start = min(start, int(segment.num_samples) - num_samples)
        member = self._find_member(segment, "audio")
        try:
            samples = decode_audio(self._read(segment, member), start, num_samples)
        except MediaError as error:
            raise ShardError(f"{member}: {error}") from error
        return torch.from_numpy(_repeat(samples, self.clip.num_samples)).float() / 32768

    def read_narration(self, segment: Any, start_frame: int, num_texts: int) -> list[str]:
        """Return the captions nearest in time to the middle of a window, the nearest first."""
        if not segment.num_context_captions:
            return []
        meta = json.loads(self._read(segment, self._find_member(segment, "meta")))
        captions = [Caption(**caption) for caption in meta["captions"]]
        middle_s = (start_frame + self.clip.num_frames / 2) / segment.frame_rate_hz
        return [caption.text for caption in choose_candidates(captions, middle_s, num_texts)]

    def encode_texts(self, segment: Any, texts: Sequence[str], num_texts: int) -> Window:
        """Return the ids of `num_texts` texts of a segment and the masks, as in `Batch`."""
        padded = [*texts, *[""] * (num_texts - len(texts))]
        ids = self._tokenizer.encode(padded, self.clip.num_tokens)
        has_audio = torch.tensor(bool(segment.has_audio))
        return {"text": ids, "audio_mask": has_audio, "text_mask": (ids != PAD_ID).any(-1)}

    def _find_member(self, segment: Any, kind: str) -> Member:
        return Member(
            shard_path=self._shards.locate(segment.shard),
            name=segment.key + SUFFIXES[kind],
            offset=int(getattr(segment, f"{kind}_offset")),
            num_bytes=int(getattr(segment, f"{kind}_bytes")),
        )

    def _read(self, segment: Any, member: Member) -> bytes:
        """Return a member of a segment, cut out of all of them."""
        members = [self._find_member(segment, kind) for kind in SUFFIXES]
        present = [one for one in members if one.num_bytes]
        begin = min(one.offset for one in present) - HEADER_BYTES
        end = max(one.offset + one.num_bytes for one in present)
        try:
            content = self._read_range(segment.shard, begin, end)
        except UnreadableError as error:
            raise ShardError(f"{member}: {error}") from error
        return cut_member(content, begin, member)


def _repeat(values: Shaped[np.ndarray, "_ ..."], length: int) -> Shaped[np.ndarray, "_ ..."]:
    """Return `length` values that start again from the first one after the last."""
    return values if len(values) == length else values[np.arange(length) % len(values)]
