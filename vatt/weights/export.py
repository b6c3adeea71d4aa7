"""A trained model as a folder that needs nothing else: weights, parameters, perhaps a tokenizer.

Pre-trained, fine-tuned and imported weights have the same kind of folder. The section `model` or
`classifier` of its params.yaml shows which heads there are; `vatt.weights.inference` uses them.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar, overload

import torch
import yaml
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.corpus.tokenizer import TOKENIZER_NAME, AnyTokenizer, open_tokenizer
from vatt.model.classifier import Network, NetworkParams, build_network
from vatt.model.towers import collect_weights, restore_weights
from vatt.model.vatt import Vatt
from vatt.params import (
    ClipParams,
    LossParams,
    ModelParams,
    PretrainParams,
    Section,
    TaskName,
    TaskParams,
)

WEIGHTS, PARAMS = "model.safetensors", "params.yaml"


class ExportedParams(Section):
    """The content of params.yaml of a model for pre-training, and where the model came from."""

    clip: ClipParams
    model: ModelParams
    frame_rate_hz: float = Field(gt=0)
    """The rate of the video that the model was trained on."""
    vocab_size: int = Field(ge=1)
    tokenizer: Literal["tokenizer.model", "vocabulary.txt"] | None = TOKENIZER_NAME
    """The file of the tokenizer; None where weights were imported without one."""
    seed: int = Field(ge=0)
    """The seed of the random weights that training began with; see `build_untrained`."""
    code_version: str
    """The version of the vatt package that wrote the export."""
    loss: LossParams | None = None
    pretrain: PretrainParams | None = None
    """How the model was trained; absent where it was not trained here."""


class ExportedClassifierParams(Section):
    """That of a classifier; from `label` on, fields are None where weights were imported."""

    classifier: NetworkParams
    frame_rate_hz: float = Field(gt=0)
    """The rate of the video that the classifier was trained on."""
    audio_stride: int = Field(default=1, ge=1)
    """The classifier heard one of so many samples at 48 kHz."""
    code_version: str
    """The version of the vatt package that wrote the export."""
    label: str | None = None
    """The task of the annotations that the classifier was trained on."""
    classes: tuple[str, ...] | None = None
    """The names of the logits, in their order."""
    clip: ClipParams | None = None
    task_name: TaskName | None = None
    task: TaskParams | None = None
    """How the classifier was fine-tuned."""
    initial_digest: str | None = None
    """The digest of the export that fine-tuning started from; None for random weights, too."""

    @model_validator(mode="after")
    def _check_classes(self) -> "ExportedClassifierParams":
        num_classes = self.classifier.num_classes
        if self.classes is not None and len(self.classes) != num_classes:
            raise ValueError(f"{len(self.classes)} classes for a network of {num_classes}")
        return self


AnyParams = ExportedParams | ExportedClassifierParams
Module = TypeVar("Module", bound=nn.Module)


def save_export(
    path: Path, model: nn.Module, params: AnyParams, tokenizer_path: Path | None = None
) -> None:
    """Write `model` to the folder `path`: whole or not at all, the same bytes for the same model.

    The file at `tokenizer_path` becomes the one that `params.tokenizer` names.
    """
    with atomic_path(path) as folder:
        folder.mkdir()
        save_weights(model, folder / WEIGHTS)
        # Unsorted, so that the sections stand in the order of the fields.
        content = yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False)
        (folder / PARAMS).write_text(content, encoding="utf-8")
        if isinstance(params, ExportedParams) and params.tokenizer and tokenizer_path:
            shutil.copyfile(tokenizer_path, folder / params.tokenizer)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all weights and statistics of a model to a safetensors file, whole or not at all."""
    weights = {
        name: value.detach().cpu().contiguous() for name, value in collect_weights(model).items()
    }
    with atomic_path(path) as partial:
        save_file(weights, partial)


@overload
def build_untrained(params: ExportedParams) -> Vatt: ...
@overload
def build_untrained(params: ExportedClassifierParams) -> Network: ...
def build_untrained(params: AnyParams) -> Vatt | Network:
    """Build the network of an export in evaluation mode.

    A model for pre-training gets the random weights that its training began with, from
    `params.seed`; a classifier those of seed 0.
    """
    # Loading a model must not change the random numbers that the caller draws next.
    with torch.random.fork_rng(devices=[]):
        if isinstance(params, ExportedClassifierParams):
            torch.manual_seed(0)
            return build_network(params.classifier).eval()
        torch.manual_seed(params.seed)
        return Vatt(params.model, params.clip, params.vocab_size).eval()


def read_params(path: Path) -> AnyParams:
    """Read params.yaml of the export in the folder `path`.

    Raises StageError if the folder is no export, or params.yaml is not YAML with the keys and
    values of one.
    """
    if not path.is_dir():
        raise StageError(f"{path}: is not an export: there is no such folder")
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
    kind = ExportedClassifierParams if "classifier" in content else ExportedParams
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        noun = "a classifier" if kind is ExportedClassifierParams else "an export"
        raise StageError(f"{file}: is not that of {noun}: {error}") from error


def read_tokenizer(path: Path, params: ExportedParams) -> AnyTokenizer | None:
    """Read the tokenizer of the export in the folder `path`; None where it was imported without.

    Raises StageError if the file is missing or damaged, or has not `params.vocab_size` pieces.
    """
    if params.tokenizer is None:
        return None
    file = path / params.tokenizer
    if not file.is_file():
        raise StageError(f"{path}: is not an export: it has no {params.tokenizer}")
    tokenizer = open_tokenizer(path)
    found, said = tokenizer.vocab_size, params.vocab_size
    if found != said:
        raise StageError(f"{file}: has {found} pieces, {PARAMS} says vocab_size: {said}")
    return tokenizer


def read_weights(path: Path, model: Module) -> Module:
    """Fill `model` with the weights of the export in the folder `path`, and return it.

    Raises StageError if the file is damaged, or names, shapes or types are not exactly those of
    `model`; the message names tensors.
    """
    file = path / WEIGHTS
    weights = read_tensors(file, str(file))
    check_fit(f"{file}: is not the model of {PARAMS}", weights, collect_weights(model))
    restore_weights(model, weights)
    return model


def read_tensors(file: Path, label: str) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file, by name.

    Raises StageError if it cannot be read; the message begins with `label`.
    """
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise StageError(f"{label}: is not a safetensors file, or is damaged: {error}") from error
    return tensors


def check_fit(label: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose names, shapes or types are not exactly those `expected`.

    Raises StageError if some differ; the message begins with `label` and names the first three.
    """

    def describe(tensor: Tensor | None) -> str:
        return "absent" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"

    misfits = [
        f"{name} is {describe(found.get(name))}, expected {describe(expected.get(name))}"
        for name in sorted(expected.keys() | found.keys())
        if describe(found.get(name)) != describe(expected.get(name))
    ]
    if misfits:
        shown = "; ".join(misfits[:3])
        raise StageError(f"{label}, {len(misfits)} tensors do not fit: {shown}")
