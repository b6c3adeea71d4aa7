"""A trained model as a folder that needs nothing else, and its use: weights, parameters, tokenizer."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml
from jaxtyping import Float
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.tokenizer import TOKENIZER_NAME, AnyTokenizer, open_tokenizer
from vatt.model.text import PADDING_ID
from vatt.model.towers import collect_weights, restore_weights
from vatt.model.vatt import Vatt
from vatt.params import ClipParams, LossParams, ModelParams, PretrainParams, Section

WEIGHTS = "model.safetensors"
PARAMS = "params.yaml"
CLASSIFIER_SECTION = "classifier"
"""Of the params.yaml of a classifier, which is an export of another kind."""


class ExportedParams(Section):
    """What params.yaml of an export holds: all that is needed to use the model, and where it came from."""

    clip: ClipParams
    model: ModelParams
    frame_rate_hz: float = Field(gt=0)
    """Of the video that the model was trained on."""
    vocab_size: int = Field(ge=1)
    tokenizer: Literal["tokenizer.model", "vocabulary.txt"] | None = TOKENIZER_NAME
    """The file of the tokenizer; None where weights were imported without one."""
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
    known_tokenizer: AnyTokenizer | None
    params: ExportedParams

    @property
    def tokenizer(self) -> AnyTokenizer:
        """The tokenizer that the model was trained with.

        Raises:
            StageError: the weights were imported without one.
        """
        if self.known_tokenizer is None:
            raise StageError(
                "this model was imported without its vocabulary, so that text has no ids: import it "
                f"again with --vocabulary FILE, a file of {self.params.vocab_size} words, one a line"
            )
        return self.known_tokenizer

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
        check_signal("video", video, (clip.num_frames, size, size, 3))
        features = self.model.encode_video(video.to(self._device))
        return VideoEmbedding(features, *self.model.project_video(features))

    @torch.inference_mode()
    def embed_audio(self, audio: Float[Tensor, "B S"]) -> AudioEmbedding:
        """Embed sounds of `params.clip.num_samples` samples: mono at 48 kHz in [-1, 1].

        Raises:
            ValueError: another shape, type or range.
        """
        check_signal("audio", audio, (self.params.clip.num_samples,))
        features = self.model.encode_audio(audio.to(self._device))
        return AudioEmbedding(features, self.model.project_audio(features))

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
        return self.model.project_text(self.model.encode_text(tokens.to(self._device)))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def save_export(
    path: Path, model: Vatt, params: ExportedParams, tokenizer_path: Path | None
) -> None:
    """Write `model` to the folder `path`: whole or not at all, the same bytes for the same model.

    The file at `tokenizer_path` becomes the one that `params.tokenizer` names.
    """
    with atomic_path(path) as partial:
        write_model(partial, model, params.model_dump(mode="json"))
        if params.tokenizer is not None and tokenizer_path is not None:
            shutil.copyfile(tokenizer_path, partial / params.tokenizer)


def write_model(folder: Path, model: nn.Module, params: dict[str, Any]) -> None:
    """Write weights and parameters to a new folder."""
    folder.mkdir()
    weights = {
        name: value.detach().cpu().contiguous() for name, value in collect_weights(model).items()
    }
    save_file(weights, folder / WEIGHTS)
    content = yaml.safe_dump(params, sort_keys=False)
    (folder / PARAMS).write_text(content, encoding="utf-8")


def load(path: Path) -> Exported:
    """Read an export. The model is on the CPU and in evaluation mode.

    Raises:
        StageError: the folder is not an export, or is damaged; the message names the file.
    """
    params = read_export_params(path)
    tokenizer = _read_tokenizer(path, params)
    model = build_untrained(params)
    read_weights(model, path / WEIGHTS)
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
    content = read_params(path)
    if CLASSIFIER_SECTION in content:
        raise StageError(f"{path}: is a classifier: load it with vatt.load_classifier")
    try:
        return ExportedParams.model_validate(content)
    except ValidationError as error:
        raise StageError(f"{path / PARAMS}: is not that of an export: {error}") from error


def read_params(path: Path) -> dict[str, Any]:
    """Read params.yaml of an export of any kind.

    Raises:
        StageError: a file is missing, or it is no YAML with sections.
    """
    missing = [name for name in (WEIGHTS, PARAMS) if not (path / name).is_file()]
    if missing:
        raise StageError(f"{path}: is not an export: it has no {', '.join(missing)}")
    file = path / PARAMS
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StageError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise StageError(f"{file}: is not that of an export: it has no sections")
    return content


def _read_tokenizer(path: Path, params: ExportedParams) -> AnyTokenizer | None:
    if params.tokenizer is None:
        return None
    file = path / params.tokenizer
    if not file.is_file():
        raise StageError(f"{path}: is not an export: it has no {params.tokenizer}")
    tokenizer = open_tokenizer(path)
    if tokenizer.vocab_size != params.vocab_size:
        raise StageError(
            f"{file}: has {tokenizer.vocab_size} pieces, {PARAMS} says "
            f"vocab_size: {params.vocab_size}"
        )
    return tokenizer


def read_weights(model: nn.Module, file: Path) -> None:
    """Fill `model` with the weights of `file`, which must have exactly its names, shapes and types.

    Raises:
        StageError: they are others, or the file is damaged; the message names tensors.
    """
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise StageError(f"{file}: is damaged or not safetensors: {error}") from error
    misfits = list_misfits(weights, collect_weights(model))
    if misfits:
        raise StageError(
            f"{file}: {len(misfits)} tensors do not fit the model of {PARAMS}: "
            + "; ".join(misfits[:3])
        )
    restore_weights(model, weights)


def list_misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Say of each tensor that differs in name, shape or type what it is, and what was expected."""
    return [
        f"{name} is {_describe(found.get(name))}, expected {_describe(expected.get(name))}"
        for name in sorted(expected.keys() | found.keys())
        if _describe(found.get(name)) != _describe(expected.get(name))
    ]


def _describe(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"


def check_signal(name: str, values: Tensor, shape: tuple[int, ...], lowest: int = -1) -> None:
    """Refuse a batch that the model would accept and misread, such as pixels in [0, 255].

    Raises:
        TypeError: it is no tensor.
        ValueError: its type is not float32, its shape not (B, *`shape`), its range not [`lowest`, 1].
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, got {type(values).__name__}")
    expected = " x ".join(str(length) for length in ("B", *shape))
    if values.dtype != torch.float32:
        raise ValueError(f"{name}: expected float32 in [{lowest}, 1], got {values.dtype}")
    if tuple(values.shape[1:]) != shape or len(values) == 0:
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(values.shape)}")
    low, high = (float(value) for value in values.aminmax())
    if not (low >= lowest and high <= 1):  # so that NaN is refused too
        raise ValueError(f"{name}: expected values in [{lowest}, 1], got [{low:g}, {high:g}]")
