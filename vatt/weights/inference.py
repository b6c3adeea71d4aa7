"""Trained models in use: embeddings of a pre-trained network, logits of a fine-tuned classifier.

Inputs that a network would accept and misread, such as pixels in [0, 255], are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vatt.core.errors import StageError
from vatt.corpus.tokenizer import AnyTokenizer
from vatt.model.classifier import Network, list_towers
from vatt.model.stem import HOP, NUM_BANDS, count_frames
from vatt.model.text import PADDING_ID
from vatt.model.towers import TowerParams
from vatt.model.vatt import Vatt
from vatt.weights.export import (
    ExportedClassifierParams,
    ExportedParams,
    build_untrained,
    read_params,
    read_tokenizer,
    read_weights,
)


class VideoEmbedding(NamedTuple):
    """Clips as seen: `features` for classifiers, `va` to compare with sound, `vt` with text."""

    features: Float[Tensor, "B D"]
    """D is the width of the tower, E and F are `model.space_va_width` and `space_vt_width`."""
    va: Float[Tensor, "B E"]
    vt: Float[Tensor, "B F"]


class AudioEmbedding(NamedTuple):
    """Clips as heard: `features` for classifiers, `va` to compare with video."""

    features: Float[Tensor, "B D"]
    va: Float[Tensor, "B E"]


@dataclass(frozen=True)
class Exported:
    """A trained model with its tokenizer. Embeddings are not normalised: compare by cosine."""

    model: Vatt
    known_tokenizer: AnyTokenizer | None
    params: ExportedParams

    @property
    def tokenizer(self) -> AnyTokenizer:
        """The tokenizer that the model was trained with.

        Raises StageError if the weights were imported without one.
        """
        if self.known_tokenizer is None:
            raise StageError(self.why_textless)
        return self.known_tokenizer

    @property
    def why_textless(self) -> str:
        """Why the model cannot read texts; empty where it can."""
        if self.known_tokenizer is not None:
            return ""
        return (
            "this model was imported without its vocabulary, so text has no ids: import it "
            f"again with --vocabulary FILE: {self.params.vocab_size} words, one a line"
        )

    @torch.inference_mode()
    def embed_video(self, video: Float[Tensor, "B T H W 3"]) -> VideoEmbedding:
        """Embed clips of `params.clip.num_frames` frames at `params.frame_rate_hz`.

        `video` is RGB in [-1, 1], in square frames of `params.clip.frame_size_px`.

        Raises ValueError for another shape, type or range.
        """
        num_frames, size = self.params.clip.num_frames, self.params.clip.frame_size_px
        _check_signal("video", video, (num_frames, size, size, 3))
        features = self.model.encode_video(video.to(self._device))
        return VideoEmbedding(features, *self.model.video_projection(features))

    @torch.inference_mode()
    def embed_audio(self, audio: Float[Tensor, "B S"]) -> AudioEmbedding:
        """Embed sounds of `params.clip.num_samples` samples: mono at 48 kHz in [-1, 1].

        Raises ValueError for another shape, type or range.
        """
        _check_signal("audio", audio, (self.params.clip.num_samples,))
        features = self.model.encode_audio(audio.to(self._device))
        return AudioEmbedding(features, self.model.audio_projection(features))

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "B F"]:
        """Embed sentences in the space of `VideoEmbedding.vt`.

        Word pieces beyond `params.clip.num_tokens` are cut off.

        Raises:
            StageError: the model was imported without a vocabulary.
            TypeError: one string in place of a list, or what is no string in it.
            ValueError: no sentence, or one without any word.
        """
        if isinstance(texts, str):
            raise TypeError("texts: expected a list of sentences, got one string")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts: expected sentences, got {text!r} at {index}")
        if not texts:
            raise ValueError("texts: expected sentences, got an empty list")
        tokens = self.tokenizer.encode(list(texts), self.params.clip.num_tokens)
        empty = (tokens == PADDING_ID).all(1).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"texts: expected sentences with words, got none at {empty}")
        features = self.model.encode_text(tokens.to(self._device))
        embeddings: Tensor = self.model.text_projection(features)
        return embeddings

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


@dataclass(frozen=True)
class ExportedClassifier:
    """A fine-tuned classifier."""

    model: Network
    params: ExportedClassifierParams

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one view of each modality, in the order that `classify` takes them.

        It is frames, height, width and 3; samples; or frames and mel bands.
        """
        return {name: x.measure() for name, x in list_towers(self.params.classifier).items()}

    @torch.inference_mode()
    def classify(self, *views: Float[Tensor, "B V *shape"]) -> Float[Tensor, "B C"]:
        """Return the logits of B clips, averaged over the V views of each.

        They are for sigmoids where `params.classifier.is_multi_label`, else for softmax. Each of
        `input_shapes` takes one tensor of windows and crops: RGB or mono in [-1, 1], or log-mel
        spectrograms in [0, 1], of which frames in a last, unfilled patch are cut off. Where these
        have 80 bands, waveforms of as many frames (1024 samples each, the last one may be cut
        short) are accepted, too. The paper has 4 windows of a sound, 4 x 3 views of a video.

        Raises ValueError for another shape, type, range or number of tensors.
        """
        towers = list_towers(self.params.classifier)
        if len(views) != len(towers):
            names = " and of ".join(towers)
            raise ValueError(f"expected views of {names}, got {len(views)} tensors")
        for signal, (modality, tower) in zip(views, towers.items(), strict=True):
            _check_views("views" if len(views) == 1 else f"{modality} views", signal, tower)
        if len({signal.shape[:2] for signal in views}) > 1:
            raise ValueError("views: expected as many clips, and views of each, of every modality")
        device = self.model.head.weight.device
        logits: Tensor = self.model.average_views(*(signal.to(device) for signal in views))
        return logits


def load_any(path: Path) -> Exported | ExportedClassifier:
    """Read an export, onto the CPU and in evaluation mode; its parameters decide what it can do.

    Raises StageError if the folder is not an export, or is damaged; the message names the file.
    """
    params = read_params(path)
    if isinstance(params, ExportedClassifierParams):
        return ExportedClassifier(read_weights(path, build_untrained(params)), params)
    tokenizer = read_tokenizer(path, params)
    return Exported(read_weights(path, build_untrained(params)), tokenizer, params)


def load(path: Path) -> Exported:
    """Read the export of a model for pre-training, and refuse a classifier; see `load_any`."""
    exported = load_any(path)
    if isinstance(exported, ExportedClassifier):
        raise StageError(f"{path}: is a classifier: load it with vatt.load_classifier")
    return exported


def load_classifier(path: Path) -> ExportedClassifier:
    """Read an exported classifier, and refuse another model; see `load_any`."""
    exported = load_any(path)
    if isinstance(exported, Exported):
        raise StageError(f"{path}: is not a classifier: load it with vatt.load")
    return exported


def _check_views(name: str, views: Float[Tensor, "B V *shape"], tower: TowerParams) -> None:
    """Refuse what the tower would misread; a tower of spectrograms takes more, see `classify`."""
    shape, lowest = tower.measure(), -1
    if tower.input == "spectrogram":
        # The network cuts off what does not fill a patch.
        accepted = range(shape[0], shape[0] + tower.patch[0])
        if views.ndim == 3 and shape[1] == NUM_BANDS:
            num_samples = views.shape[2]
            if count_frames(num_samples) not in accepted:
                fewest, most = accepted[0] * HOP - HOP + 1, accepted[-1] * HOP
                raise ValueError(
                    f"{name}: expected waveforms of {fewest} to {most} samples, got {num_samples}"
                )
            shape = (num_samples,)
        else:
            lowest = 0
            if views.ndim == 4 and views.shape[2] in accepted:
                views = views[:, :, : shape[0]]
    _check_signal(name, views.flatten(0, 1), shape, lowest)


def _check_signal(name: str, values: Tensor, shape: tuple[int, ...], lowest: int = -1) -> None:
    """Refuse a batch that is no float32 tensor of shape (B, *`shape`) in [`lowest`, 1]."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, got {type(values).__name__}")
    if values.dtype != torch.float32:
        raise ValueError(f"{name}: expected float32 in [{lowest}, 1], got {values.dtype}")
    if tuple(values.shape[1:]) != shape or len(values) == 0:
        expected = " x ".join(map(str, ("B", *shape)))
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(values.shape)}")
    low, high = (float(value) for value in values.aminmax())
    if not (low >= lowest and high <= 1):  # so that NaN is refused too
        raise ValueError(f"{name}: expected values in [{lowest}, 1], got [{low:g}, {high:g}]")
