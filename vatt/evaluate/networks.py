"""The networks that are evaluated, and what each of them makes of the views of clips."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vatt.core.errors import StageError
from vatt.loading.loader import MIDDLE, Look, Views
from vatt.loading.tasks import MODALITIES, TaskInput
from vatt.model.text import PADDING_ID
from vatt.model.towers import Tower
from vatt.model.vatt import Vatt
from vatt.weights.export import build_untrained
from vatt.weights.inference import Exported, load
from vatt.weights.registry import digest_export, find_export

NUM_CROPS = 3  # along the longer side, where a video is classified (VATT appendix A.3)
Arrays = dict[str, Float[np.ndarray, "N ..."]]
"""What a network makes of N clips, or of their texts, by name."""


def choose_device() -> torch.device:
    """Return where networks are fastest."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Embedder:
    """A pre-trained network: features for linear classifiers, embeddings for retrieval."""

    exported: Exported
    digest: str
    name: str
    task: Literal["audio_visual", "video"] = "audio_visual"
    """With `video` it hears nothing, and returns nothing of sound."""

    @property
    def network(self) -> Vatt:
        """Its weights, on whatever device."""
        return self.exported.model

    @property
    def frame_rate_hz(self) -> float:
        """The frame rate of the video that it was trained on."""
        return self.exported.params.frame_rate_hz

    def look(self, places: tuple[float, ...]) -> Look:
        """Look at the middle of the picture and hear the sound of the same time."""
        return Look(TaskInput(self.task, self.exported.params.clip), places)

    @torch.inference_mode()
    def see(self, clips: Sequence[Views]) -> Arrays:
        """Return features `video`, `audio` and embeddings `video_va`, `audio_va`, `video_vt`."""
        network = self.network
        video = network.encode_video(_join(clips, "video", network))
        video_va, video_vt = network.video_projection(video)
        windows = {"video": video, "video_va": video_va, "video_vt": video_vt}
        if self.task == "audio_visual":
            audio = network.encode_audio(_join(clips, "audio", network))
            windows |= {"audio": audio, "audio_va": network.audio_projection(audio)}
        return {
            name: _to_numpy(values).reshape(len(clips), -1, values.shape[-1])
            for name, values in windows.items()
        }

    @torch.inference_mode()
    def read(self, texts: Sequence[str], /) -> Arrays:
        """Return `text_vt` embeddings; nothing where the network was imported without its words."""
        if self.exported.why_textless:
            return {}
        network, num_tokens = self.network, self.exported.params.clip.num_tokens
        tokens = self.exported.tokenizer.encode(list(texts), num_tokens)
        tokens = tokens.to(next(network.parameters()).device)
        return {"text_vt": _to_numpy(network.text_projection(network.encode_text(tokens)))}


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
        ends = np.cumsum([len(views.signals[names[0]]) for views in clips])[:-1]
        windows = [
            of_clip.reshape(views.num_windows, -1, logits.shape[-1]).mean(axis=1)
            for views, of_clip in zip(clips, np.split(logits, ends), strict=True)
        ]
        return {"logits": np.stack(windows)}

    def read(self, _: Sequence[str], /) -> Arrays:
        """Return nothing: it knows no text."""
        return {}


Observed = TypeVar("Observed", Embedder, Labeller)


@dataclass(frozen=True)
class Inside(Generic[Observed]):
    """A network that is looked into, by the middle window of a clip."""

    observed: Observed
    """The network as it is seen from outside."""

    @property
    def network(self) -> Any:
        """Its weights, on whatever device."""
        return self.observed.network

    @property
    def digest(self) -> str:
        """The digest of the network and of this way to look at it."""
        return f"{self.observed.digest} inside"

    @property
    def name(self) -> str:
        """The name of the network."""
        return self.observed.name

    @property
    def frame_rate_hz(self) -> float:
        """The frame rate of the video that it was trained on."""
        return self.observed.frame_rate_hz


class InnerEmbedder(Inside[Embedder]):
    """A pre-trained network, looked into: what enters its encoders and leaves them."""

    @property
    def shares_encoder(self) -> bool:
        """Whether all modalities have one encoder, as in VATT-MA."""
        return self.network.audio.encoder is self.network.video.encoder

    def look(self, _: tuple[float, ...], /) -> Look:
        """Look at the middle of the clip."""
        return self.observed.look((MIDDLE,))

    @torch.inference_mode()
    def see(self, clips: Sequence[Views]) -> Arrays:
        """Return embeddings as `Embedder`, and for video and audio `_input`, `_feature`, `_nodes`.

        All are by the one window.

        - input: the mean (N, D) of the tokens that enter the encoder, without AGG.
        - feature: AGG behind the encoder, (N, E).
        - nodes: the mean over all tokens of what each node of the MLPs gives, before the residual
          is added, (N, layers, D); only of an encoder that all modalities share.
        """
        network = self.network
        made: dict[str, Tensor] = {}
        for name in ("video", "audio"):
            inner = _look_into(getattr(network, name), _join(clips, name, network))
            made |= {f"{name}_{what}": values for what, values in inner.items()}
            if not self.shares_encoder:
                del made[f"{name}_nodes"]
        made["video_va"], made["video_vt"] = network.video_projection(made["video_feature"])
        made["audio_va"] = network.audio_projection(made["audio_feature"])
        return {name: _to_numpy(values) for name, values in made.items()}

    @torch.inference_mode()
    def read(self, texts: Sequence[str], /) -> Arrays:
        """Return the same for text, without padding."""
        exported, network = self.observed.exported, self.network
        if exported.why_textless:
            return {}
        ids = exported.tokenizer.encode(list(texts), exported.params.clip.num_tokens)
        ids = ids.to(next(network.parameters()).device)
        if isinstance(network.text, Tower):
            made = _look_into(network.text, ids, ids != PADDING_ID)
        else:
            made = {"input": _average(network.words(ids), ids != PADDING_ID)}
            made["feature"] = network.encode_text(ids)
        if not self.shares_encoder:
            made.pop("nodes", None)
        found = {f"text_{what}": _to_numpy(values) for what, values in made.items()}
        return found | {"text_vt": _to_numpy(network.text_projection(made["feature"]))}


class InnerLabeller(Inside[Labeller]):
    """A fine-tuned network of one tower, looked into: its features, by one crop."""

    def look(self, _: tuple[float, ...], /) -> Look:
        """Look at the middle of the clip and of the picture."""
        return Look(self.observed.input, (MIDDLE,))

    @torch.inference_mode()
    def see(self, clips: Sequence[Views]) -> Arrays:
        """Return the `feature` that is before the linear layer."""
        (name,) = MODALITIES[self.observed.input.task]
        signals = _join(clips, name, self.network)
        return {"feature": _to_numpy(self.network.tower(signals)[:, 0])}

    def read(self, _: Sequence[str], /) -> Arrays:
        """Return nothing: it knows no text."""
        return {}


Observer = Embedder | Labeller | InnerEmbedder | InnerLabeller


def load_embedder(folder: Path) -> Embedder:
    """Load an export; a damaged one is a StageError."""
    return Embedder(load(folder), digest_export(folder), str(folder))


def open_model(name: str) -> Embedder:
    """Load the export that `evaluate.model` names: a folder, or "champion".

    Raises StageError if there is none, or it is damaged or a classifier; the message names the key.
    """
    try:
        return load_embedder(find_export(name))
    except StageError as error:
        accepted = "accepted are data/pretrain, champion, and folders of exports of three towers"
        raise StageError(f"evaluate.model = {name}: {error}; {accepted}") from error


def forget_training(embedder: Embedder) -> Embedder:
    """Return the network as it was before its training."""
    model = build_untrained(embedder.exported.params)
    exported = dataclasses.replace(embedder.exported, model=model)
    return Embedder(exported, f"{embedder.digest} untrained", embedder.name)


def _look_into(
    tower: Tower, signal: Tensor, is_patch: Bool[Tensor, "B L"] | None = None
) -> dict[str, Tensor]:
    """Return what `InnerEmbedder.see` says; `is_patch` is false for what is padding."""
    group = tower.stem(signal)
    shape = group.tokens.shape[:2]
    is_token = group.tokens.new_ones(shape, dtype=torch.bool)
    if is_patch is not None:
        is_token[:, 1:] = is_patch
    nodes: list[Tensor] = []
    mlps: list[nn.Module] = [block.mlp for block in tower.encoder.blocks]  # type: ignore[misc]

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        nodes.append(_average(output.unflatten(0, shape), is_token))

    handles = [mlp.register_forward_hook(keep) for mlp in mlps]
    (encoded,) = tower.encoder([group], all_tokens=True)
    for handle in handles:
        handle.remove()
    return {
        "input": _average(group.tokens[:, 1:], is_token[:, 1:]),
        "feature": tower.post_projection(encoded)[:, 0],
        "nodes": torch.stack(nodes, dim=1),
    }


def _average(tokens: Float[Tensor, "B L D"], is_kept: Bool[Tensor, "B L"]) -> Float[Tensor, "B D"]:
    """Return the mean of the tokens that are kept; 0 where none is."""
    kept = is_kept[..., None].float()
    return (tokens.float() * kept).sum(1) / kept.sum(1).clamp(min=1)


def _join(clips: Sequence[Views], name: str, network: nn.Module) -> Tensor:
    signals = torch.cat([views.signals[name] for views in clips])
    return signals.to(next(network.parameters()).device)


def _to_numpy(values: Tensor) -> Float[np.ndarray, "N D"]:
    return np.asarray(values.float().cpu())
