"""The networks that are evaluated, and what each of them makes of the views of clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vatt.corpus.tokenizer import AnyTokenizer
from vatt.loading.tasks import TaskInput
from vatt.loading.views import MIDDLE, Look, Views
from vatt.model.vatt import Vatt
from vatt.params import ClipParams

Arrays = dict[str, Float[np.ndarray, "N ..."]]
NUM_CROPS = 3
"""Along the longer side, where a video is classified (VATT appendix A.3)."""
TEXTS_AT_ONCE = 512
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def choose_device() -> torch.device:
    """Return where networks are fastest."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place(network: AnyModule) -> AnyModule:
    """Move a network to where it is fastest."""
    return network.to(choose_device())


class Observer(Protocol):
    """A network with its way to look at clips."""

    @property
    def name(self) -> str:
        """The folder that it is from, for messages."""

    @property
    def digest(self) -> str:
        """Of its weights and of all else that decides what it makes of a clip."""

    @property
    def frame_rate_hz(self) -> float:
        """Of the video that it was trained on."""

    def look(self, places: tuple[float, ...]) -> Look:
        """Return how it looks at clips, in windows at these places where it can choose."""

    def see(self, clips: Sequence[Views]) -> Arrays:
        """Return what it makes of each window of each clip: arrays (clips, windows, numbers)."""

    def read(self, texts: Sequence[str], /) -> Arrays:
        """Return what it makes of texts, if anything."""


@dataclass(frozen=True)
class Embedder:
    """A pre-trained network: features for linear classifiers, embeddings for retrieval."""

    network: Vatt
    tokenizer: AnyTokenizer
    clip: ClipParams
    frame_rate_hz: float
    digest: str
    name: str

    def look(self, places: tuple[float, ...]) -> Look:
        """Look at the middle of the picture and hear the sound of the same time."""
        return Look(TaskInput("audio_visual", self.clip), places)

    @torch.inference_mode()
    def see(self, clips: Sequence[Views]) -> Arrays:
        """Return `video` and `audio` features, and `video_va`, `audio_va`, `video_vt` embeddings."""
        video = self.network.encode_video(_join(clips, "video", _device(self.network)))
        audio = self.network.encode_audio(_join(clips, "audio", _device(self.network)))
        video_va, video_vt = self.network.project_video(video)
        windows = {
            "video": video,
            "audio": audio,
            "video_va": video_va,
            "audio_va": self.network.project_audio(audio),
            "video_vt": video_vt,
        }
        return {
            name: _to_numpy(values).reshape(len(clips), -1, values.shape[-1])
            for name, values in windows.items()
        }

    @torch.inference_mode()
    def read(self, texts: Sequence[str], /) -> Arrays:
        """Return `text_vt` embeddings."""
        network, parts = self.network, []
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            part = list(texts[first : first + TEXTS_AT_ONCE])
            tokens = self.tokenizer.encode(part, self.clip.num_tokens).to(_device(network))
            parts.append(_to_numpy(network.project_text(network.encode_text(tokens))))
        return {"text_vt": np.concatenate(parts)} if parts else {}


@dataclass(frozen=True)
class Labeller:
    """A network that was fine-tuned to classes."""

    network: nn.Module
    wanted: TaskInput
    modalities: tuple[str, ...]
    frame_rate_hz: float
    digest: str
    name: str

    def look(self, places: tuple[float, ...]) -> Look:
        """Look at crops of each window; of images, at the one in the middle."""
        if self.wanted.task == "image":
            return Look(self.wanted, (MIDDLE,))
        return Look(self.wanted, places, NUM_CROPS if "video" in self.modalities else 1)

    @torch.inference_mode()
    def see(self, clips: Sequence[Views]) -> Arrays:
        """Return `logits`, averaged over the crops of each window."""
        device = _device(self.network)
        logits = _to_numpy(self.network(*(_join(clips, name, device) for name in self.modalities)))
        ends = np.cumsum([_count_views(views) for views in clips])
        windows = [
            views_of_clip.reshape(views.num_windows, -1, logits.shape[-1]).mean(axis=1)
            for views, views_of_clip in zip(clips, np.split(logits, ends[:-1]), strict=True)
        ]
        return {"logits": np.stack(windows)}

    def read(self, _: Sequence[str], /) -> Arrays:
        """Return nothing: it knows no text."""
        return {}


def _join(clips: Sequence[Views], name: str, device: torch.device) -> Tensor:
    return torch.cat([views.signals[name] for views in clips]).to(device)


def _count_views(views: Views) -> int:
    return len(next(iter(views.signals.values())))


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _to_numpy(values: Tensor) -> Float[np.ndarray, "N D"]:
    array: Float[np.ndarray, "N D"] = values.float().cpu().numpy()
    return array
