"""A trained model as a folder that needs nothing else, and its use: weights, parameters, tokenizer."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from jaxtyping import Float
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vatt.atomic import atomic_path
from vatt.data.tokenizer import Tokenizer
from vatt.models.tower import collect_weights, restore_weights
from vatt.models.vatt import Vatt
from vatt.params import ClipParams, LossParams, ModelParams, PretrainParams, Section, StageError

WEIGHTS = "model.safetensors"
PARAMS = "params.yaml"
TOKENIZER = "tokenizer.model"


class ExportedParams(Section):
    """What params.yaml of an export holds: all that is needed to use the model, and where it came from."""

    clip: ClipParams
    model: ModelParams
    frame_rate_hz: float = Field(gt=0)
    """Of the video that the model was trained on."""
    vocab_size: int = Field(ge=1)
    seed: int = Field(ge=0)
    """Of the random weights that training began with; see `build_untrained`."""
    code_version: str
    """Version of the vatt package that wrote the export."""
    loss: LossParams | None = None
    pretrain: PretrainParams | None = None
    """How it was trained; absent in a model that was not trained here."""


class VideoEmbedding(NamedTuple):
    """Clips as seen: `features` for classifiers, `va` to compare with sound, `vt` with text."""

    features: Float[Tensor, "B D"]
    va: Float[Tensor, "B E"]
    vt: Float[Tensor, "B F"]


class AudioEmbedding(NamedTuple):
    """Clips as heard: `features` for classifiers, `va` to compare with video."""

    features: Float[Tensor, "B D"]
    va: Float[Tensor, "B E"]


@dataclass(frozen=True)
class Exported:
    """A trained model with its tokenizer. Embeddings are not normalised: compare them by cosine."""

    model: Vatt
    tokenizer: Tokenizer
    params: ExportedParams

    @torch.inference_mode()
    def embed_video(self, video: Float[Tensor, "B T H W 3"]) -> VideoEmbedding:
        """Embed clips of `params.clip.num_frames` frames at `params.frame_rate_hz`.

        `video` is RGB in [-1, 1], square frames of `params.clip.frame_size_px`. The E and F of the
        result are `params.model.space_va_width` and `space_vt_width`, D the width of the tower.

        Raises:
            ValueError: another shape, type or range.
        """
        clip = self.params.clip
        size = clip.frame_size_px
        _check("video", video, (clip.num_frames, size, size, 3))
        features = self.model.encode_video(video.to(self._device))
        return VideoEmbedding(features, *self.model.project_video(features))

    @torch.inference_mode()
    def embed_audio(self, audio: Float[Tensor, "B S"]) -> AudioEmbedding:
        """Embed sounds of `params.clip.num_samples` samples: mono at 48 kHz in [-1, 1].

        Raises:
            ValueError: another shape, type or range.
        """
        _check("audio", audio, (self.params.clip.num_samples,))
        features = self.model.encode_audio(audio.to(self._device))
        return AudioEmbedding(features, self.model.project_audio(features))

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "B F"]:
        """Embed sentences in the space of `VideoEmbedding.vt`.

        Word pieces beyond `params.clip.num_tokens` are cut off.

        Raises:
            TypeError: one string in place of a list.
            ValueError: no sentence, or one without any word.
        """
        if isinstance(texts, str):
            raise TypeError("texts: expected a list of sentences, got one string")
        empty = [index for index, text in enumerate(texts) if not text.strip()]
        if empty or not texts:
            raise ValueError(f"texts: expected sentences with words, got none at {empty or 'all'}")
        tokens = self.tokenizer.encode(list(texts), self.params.clip.num_tokens)
        return self.model.project_text(self.model.encode_text(tokens.to(self._device)))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def save_export(path: Path, model: Vatt, params: ExportedParams, tokenizer_path: Path) -> None:
    """Write `model` to the folder `path`: whole or not at all, the same bytes for the same model."""
    weights = {
        name: value.detach().cpu().contiguous() for name, value in collect_weights(model).items()
    }
    with atomic_path(path) as partial:
        partial.mkdir()
        save_file(weights, partial / WEIGHTS)
        content = yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False)
        (partial / PARAMS).write_text(content, encoding="utf-8")
        shutil.copyfile(tokenizer_path, partial / TOKENIZER)


def load(path: Path) -> Exported:
    """Read an export. The model is on the CPU and in evaluation mode.

    Raises:
        StageError: the folder is not an export, or is damaged; the message names the file.
    """
    missing = [name for name in (WEIGHTS, PARAMS, TOKENIZER) if not (path / name).is_file()]
    if missing:
        raise StageError(f"{path}: is not an export: it has no {', '.join(missing)}")
    params = read_export_params(path)
    tokenizer = _read_tokenizer(path / TOKENIZER, params.vocab_size)
    model = build_untrained(params)
    _load_weights(model, path / WEIGHTS)
    return Exported(model, tokenizer, params)


def build_untrained(params: ExportedParams) -> Vatt:
    """Build the network with the random weights that training began with, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        model = Vatt(params.model, params.clip, params.vocab_size)
    return model.eval()


def read_export_params(path: Path) -> ExportedParams:
    """Read params.yaml of the export in the folder `path`.

    Raises:
        StageError: it is not YAML, or a key or value is not accepted.
    """
    file = path / PARAMS
    try:
        return ExportedParams.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise StageError(f"{file}: is not the params.yaml of an export: {error}") from error


def _read_tokenizer(file: Path, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(file)
    if tokenizer.vocab_size != vocab_size:
        raise StageError(
            f"{file}: has {tokenizer.vocab_size} pieces, {PARAMS} says vocab_size: {vocab_size}"
        )
    return tokenizer


def _load_weights(model: Vatt, file: Path) -> None:
    """Fill `model` with the weights of `file`, which must have exactly its names, shapes and types."""
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise StageError(f"{file}: is damaged or not safetensors: {error}") from error
    expected = collect_weights(model)
    wrong = [
        f"{name} is {_describe(weights.get(name))}, expected {_describe(expected.get(name))}"
        for name in sorted(expected.keys() | weights.keys())
        if _describe(weights.get(name)) != _describe(expected.get(name))
    ]
    if wrong:
        listed = "; ".join(wrong[:3])
        raise StageError(f"{file}: {len(wrong)} tensors do not fit the model of {PARAMS}: {listed}")
    restore_weights(model, weights)


def _describe(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"


def _check(name: str, values: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a batch that the model would accept and misread, such as pixels in [0, 255]."""
    expected = " x ".join(str(length) for length in ("B", *shape))
    if values.dtype != torch.float32:
        raise ValueError(f"{name}: expected float32 in [-1, 1], got {values.dtype}")
    if tuple(values.shape[1:]) != shape or len(values) == 0:
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(values.shape)}")
    low, high = (float(value) for value in values.aminmax())
    if not (low >= -1 and high <= 1):  # so that NaN is refused too
        raise ValueError(f"{name}: expected values in [-1, 1], got [{low:g}, {high:g}]")
