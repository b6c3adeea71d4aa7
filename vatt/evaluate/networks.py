"""The networks that are evaluated, and what each of them makes of the views of clips."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vatt.core.errors import StageError
from vatt.evaluate.clips import Arrays
from vatt.evaluate.finetuned import TaskEntry
from vatt.evaluate.probes import Skipped
from vatt.loading.loader import MIDDLE, Look, Views
from vatt.loading.tasks import MODALITIES, TaskInput
from vatt.params import SKIPPED
from vatt.weights.export import build_untrained
from vatt.weights.inference import Exported, load, load_classifier
from vatt.weights.registry import digest_export

NUM_CROPS = 3
"""Crops along the longer side, where a video is classified (VATT appendix A.3)."""
TEXTS_AT_ONCE = 512


def choose_device() -> torch.device:
    """Return where networks are fastest."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Embedder:
    """A pre-trained network: features for linear classifiers, embeddings for retrieval."""

    exported: Exported
    digest: str
    name: str

    @property
    def frame_rate_hz(self) -> float:
        """The frame rate of the video that it was trained on."""
        return self.exported.params.frame_rate_hz

    def look(self, places: tuple[float, ...]) -> Look:
        """Look at the middle of the picture and hear the sound of the same time."""
        return Look(TaskInput("audio_visual", self.exported.params.clip), places)

    @torch.inference_mode()
    def see(self, clips: Sequence[Views]) -> Arrays:
        """Return features `video`, `audio` and embeddings `video_va`, `audio_va`, `video_vt`."""
        network = self.exported.model
        video = network.encode_video(_join(clips, "video", network))
        audio = network.encode_audio(_join(clips, "audio", network))
        video_va, video_vt = network.video_projection(video)
        windows = {
            "video": video,
            "audio": audio,
            "video_va": video_va,
            "audio_va": network.audio_projection(audio),
            "video_vt": video_vt,
        }
        return {
            name: _to_numpy(values).reshape(len(clips), -1, values.shape[-1])
            for name, values in windows.items()
        }

    @torch.inference_mode()
    def read(self, texts: Sequence[str], /) -> Arrays:
        """Return `text_vt` embeddings."""
        network, parts = self.exported.model, []
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            part = list(texts[first : first + TEXTS_AT_ONCE])
            tokens = self.exported.tokenizer.encode(part, self.exported.params.clip.num_tokens)
            tokens = tokens.to(next(network.parameters()).device)
            parts.append(_to_numpy(network.text_projection(network.encode_text(tokens))))
        return {"text_vt": np.concatenate(parts)} if parts else {}


@dataclass(frozen=True)
class Labeller:
    """A network that was fine-tuned to classes."""

    network: nn.Module
    input: TaskInput
    frame_rate_hz: float
    digest: str
    name: str

    def look(self, places: tuple[float, ...]) -> Look:
        """Look at crops of each window; of images, at the one in the middle."""
        if self.input.task == "image":
            return Look(self.input, (MIDDLE,))
        return Look(self.input, places, 1 if self.input.task == "audio" else NUM_CROPS)

    @torch.inference_mode()
    def see(self, clips: Sequence[Views]) -> Arrays:
        """Return `logits`, averaged over the crops of each window."""
        names = MODALITIES[self.input.task]
        logits = _to_numpy(self.network(*(_join(clips, name, self.network) for name in names)))
        sizes = [len(views.signals[names[0]]) for views in clips]
        windows = [
            views_of_clip.reshape(views.num_windows, -1, logits.shape[-1]).mean(axis=1)
            for views, views_of_clip in zip(
                clips, np.split(logits, np.cumsum(sizes)[:-1]), strict=True
            )
        ]
        return {"logits": np.stack(windows)}

    def read(self, _: Sequence[str], /) -> Arrays:
        """Return nothing: it knows no text."""
        return {}


Observer = Embedder | Labeller
Finetuned = tuple[TaskEntry | Skipped, dict[str, Labeller]]
"""What is measured of a task, yet without logits, and what gives these: `model`, `untrained` and,
where it was trained, `scratch`; nothing of a task that was skipped."""


def load_embedder(folder: Path) -> Embedder:
    """Load an export.

    Raises:
        StageError: it is damaged.
    """
    exported = load(folder)
    exported.model.to(choose_device())
    return Embedder(exported, digest_export(folder), str(folder))


def forget_training(embedder: Embedder) -> Embedder:
    """Return the network as it was before its training."""
    model = build_untrained(embedder.exported.params).to(choose_device())
    exported = dataclasses.replace(embedder.exported, model=model)
    return Embedder(exported, f"{embedder.digest} untrained", embedder.name)


def load_finetuned(folder: Path, export_digest: str) -> Finetuned:
    """Load the networks of a task, which the folder is called after, or say why there are none.

    `export_digest` is that of the pre-trained network that they are measured beside.

    Raises:
        StageError: the folder is not as the stage finetune leaves it.
    """
    advice = f"run `python -m vatt finetune {folder.name}`"
    if (folder / SKIPPED).is_file():
        try:
            content = json.loads((folder / SKIPPED).read_text(encoding="utf-8"))
            return Skipped(content["reason"]), {}
        except (OSError, ValueError) as error:
            raise StageError(f"{folder / SKIPPED}: cannot be read: {error}; {advice}") from error
    if not folder.is_dir():
        return Skipped("was not fine-tuned"), {}
    if not (folder / "model").is_dir():
        raise StageError(f"{folder}: has no model; {advice}")
    exported, digest = load_classifier(folder / "model"), digest_export(folder / "model")
    params, scratch = exported.params, folder / "scratch"
    if params.task_name is None or params.clip is None:
        raise StageError(f"{folder}: the network was not fine-tuned by the stage finetune")
    networks: dict[str, tuple[nn.Module, str]] = {"model": (exported.model, digest)}
    if scratch.is_dir():
        networks["scratch"] = (load_classifier(scratch).model, digest_export(scratch))
    networks["untrained"] = (build_untrained(params), f"{digest} untrained")
    seen, device = TaskInput(params.task_name, params.clip, params.audio_stride), choose_device()
    labellers = {
        name: Labeller(network.to(device), seen, params.frame_rate_hz, own, str(folder / name))
        for name, (network, own) in networks.items()
    }
    origins = {None: "random weights", export_digest: "this network"}
    entry = TaskEntry(
        task=folder.name,
        label=params.label or "",
        is_multi_label=params.classifier.is_multi_label,
        classes=params.classes or (),
        logits={},
        initial=origins.get(params.initial_digest, "other weights"),
    )
    return entry, labellers


def _join(clips: Sequence[Views], name: str, network: nn.Module) -> Tensor:
    signals = torch.cat([views.signals[name] for views in clips])
    return signals.to(next(network.parameters()).device)


def _to_numpy(values: Tensor) -> Float[np.ndarray, "N D"]:
    array: Float[np.ndarray, "N D"] = values.float().cpu().numpy()
    return array
