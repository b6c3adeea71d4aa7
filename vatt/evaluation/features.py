"""What a network makes of the clips of a split: features for probes, embeddings for retrieval."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vatt.batch import Batch
from vatt.models.vatt import Vatt


@dataclass(frozen=True)
class Clips:
    """The clips of a split, in the order of the index.

    labels: label by task. texts: the annotated caption, else the nearest narration, else None.
    names: what a person may call them.
    """

    names: Sequence[str]
    labels: Sequence[dict[str, str]]
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
