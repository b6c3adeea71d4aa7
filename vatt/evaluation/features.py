"""What a network makes of the clips of a split: features for probes, embeddings for retrieval."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vatt.batch import Batch
from vatt.data.clips import ClipReader
from vatt.data.index import read_index
from vatt.data.loader import open_evaluation_loader
from vatt.data.tokenizer import AnyTokenizer
from vatt.models.vatt import Vatt
from vatt.params import ClipParams, EvaluateParams, StageError

NUM_WORKERS = 1  # decodes while the networks compute


@dataclass(frozen=True)
class Clips:
    """The clips of a split, in the order of the index.

    names: what a person may call them. labels: by task, the best first. texts: the first
    annotated description, else the narration nearest to the middle, else None. digest: of the index, the texts and the number
    of windows, so that results on equal digests can be compared.
    """

    digest: str
    names: Sequence[str]
    labels: Sequence[dict[str, list[str]]]
    texts: Sequence[str | None]
    has_video: Bool[np.ndarray, "N"]
    has_audio: Bool[np.ndarray, "N"]

    def select_pairs(self, direction: str) -> Bool[np.ndarray, "N"]:
        """Return which clips have what text_to_video or audio_to_video needs."""
        has_text = np.array([text is not None for text in self.texts], dtype=bool)
        queries = self.has_audio if direction == "audio_to_video" else has_text
        pairs: Bool[np.ndarray, "N"] = self.has_video & queries
        return pairs


class Features(NamedTuple):
    """One network's view of N clips, averaged over windows, not normalised.

    Rows of clips that lack the modality mean nothing; `Clips` says which those are.
    """

    video: Float[np.ndarray, "N D"]
    audio: Float[np.ndarray, "N A"]
    video_va: Float[np.ndarray, "N E"]
    audio_va: Float[np.ndarray, "N E"]
    video_vt: Float[np.ndarray, "N F"]
    text_vt: Float[np.ndarray, "N F"]


class MisfitError(StageError):
    """A network and a corpus that cannot go together."""


@dataclass(frozen=True)
class SplitReader:
    """Reads the splits of a corpus for networks of one shape of clip and one tokenizer."""

    preprocess_dir: Path
    clip: ClipParams
    frame_rate_hz: float
    """Of the video that the networks were trained on."""
    tokenizer: AnyTokenizer
    params: EvaluateParams

    def read(self, split: str, networks: Sequence[Vatt]) -> tuple[Clips, list[Features]]:
        """Return the clips of a split and what each of the networks makes of them.

        Of the split train only the middle window is seen, as in the paper.

        Raises:
            StageError: the corpus cannot be read.
            MisfitError: it has another frame rate than the networks were trained on.
        """
        reader = ClipReader(self.preprocess_dir, self.clip)
        self._check_frame_rate()
        clips = self._read_clips(reader, split)
        tokens = self.tokenizer.encode([text or "" for text in clips.texts], self.clip.num_tokens)
        num_windows, batch_size = self.params.num_windows, self.params.batch_size
        if split == "train":
            num_windows = 1
        loader = open_evaluation_loader(reader, split, num_windows, batch_size, NUM_WORKERS)
        batches = (batch for _, batch in loader)
        return clips, extract_features(networks, batches, tokens, num_windows)

    def _read_clips(self, reader: ClipReader, split: str) -> Clips:
        rows = read_index(self.preprocess_dir, split=split)
        segments = [segment for _, segment in rows.iterrows()]
        texts = [_find_text(reader, segment) for segment in segments]
        content = rows.to_csv(index=False) + json.dumps([texts, self.params.num_windows])
        return Clips(
            digest=hashlib.sha256(content.encode()).hexdigest(),
            names=[_name(segment) for segment in segments],
            labels=[json.loads(segment.labels) for segment in segments],
            texts=texts,
            has_video=rows["has_video"].to_numpy(dtype=bool),
            has_audio=rows["has_audio"].to_numpy(dtype=bool),
        )

    def _check_frame_rate(self) -> None:
        rows = read_index(self.preprocess_dir, columns=["has_video", "frame_rate_hz"])
        rates = rows.loc[rows["has_video"], "frame_rate_hz"].unique()
        wrong = [rate for rate in rates if rate != self.frame_rate_hz]
        if wrong:
            raise MisfitError(
                f"{self.preprocess_dir}: has video at {wrong[0]:g} frames per second, the network "
                f"was trained at {self.frame_rate_hz:g}"
            )


def _name(segment: Any) -> str:
    times = f"{segment.start_s:.1f}–{segment.end_s:.1f}\u00a0s"
    return f"{segment.source}/{segment.video_id}, {times}"


def _find_text(reader: ClipReader, segment: Any) -> str | None:
    middle_start = (int(segment.num_frames) - reader.clip.num_frames) // 2
    texts = reader.read_text(segment, middle_start)
    return texts[0] if texts else None


def extract_features(
    networks: Sequence[Vatt], batches: Iterable[Batch], tokens: Int[Tensor, "N L"], num_windows: int
) -> list[Features]:
    """Return the features of each of the `networks`; every clip is read once for all of them.

    `batches` hold the clips in order, each as `num_windows` windows in a row; their text is not
    read. `tokens` are the ids of one text for each clip, all zeros where there is none.
    """
    parts: list[list[Features]] = [[] for _ in networks]
    start = 0
    for batch in batches:
        stop = start + len(batch.video) // num_windows
        for network, part in zip(networks, parts, strict=True):
            part.append(_embed(network, batch, tokens[start:stop], num_windows))
        start = stop
    if start != len(tokens):
        raise ValueError(f"the batches hold {start} clips, there are texts for {len(tokens)}")
    return [_join(part) for part in parts]


def _join(parts: Sequence[Features]) -> Features:
    if not parts:
        return Features._make(np.zeros((0, 1), np.float32) for _ in Features._fields)
    return Features._make(np.concatenate(column) for column in zip(*parts, strict=True))


@torch.inference_mode()
def _embed(network: Vatt, batch: Batch, tokens: Int[Tensor, "N L"], num_windows: int) -> Features:
    device = next(network.parameters()).device
    video = network.encode_video(batch.video.to(device))
    audio = network.encode_audio(batch.audio.to(device))
    video_va, video_vt = network.project_video(video)
    windows = (video, audio, video_va, network.project_audio(audio), video_vt)
    averages = [_to_numpy(values.unflatten(0, (-1, num_windows)).mean(1)) for values in windows]
    text_vt = network.project_text(network.encode_text(tokens.to(device)))
    return Features._make([*averages, _to_numpy(text_vt)])


def _to_numpy(values: Tensor) -> Float[np.ndarray, "N D"]:
    array: Float[np.ndarray, "N D"] = values.float().cpu().numpy()
    return array
