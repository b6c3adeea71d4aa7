"""Weights of the original TensorFlow model as an export: `python -m vatt import-tf CHECKPOINT OUT`."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import nn

from vatt.core.errors import StageError
from vatt.corpus.tokenizer import VOCABULARY_NAME, WordTokenizer
from vatt.model.classifier import Classifier, ClassifierParams
from vatt.model.towers import collect_weights
from vatt.model.vatt import Vatt
from vatt.weights.architecture import Choices, Network, explain, read_architecture
from vatt.weights.classifier import ExportedClassifierParams, save_classifier
from vatt.weights.export import PARAMS, ExportedParams, save_export
from vatt.weights.original import check_names, find_originals, find_shape, lay_out_weights
from vatt.weights.tensor_bundle import TensorBundle, TensorEntry

Sources = Mapping[str, tuple[str, ...]]

LEFT_OUT = "left out: "
PRETRAINING_RATE_HZ = 10.0
CLASSIFIER_RATE_HZ = 12.5
"""Every second frame of 25 Hz (VATT appendix A.3)."""
CLASSIFIER_AUDIO_STRIDE = 2
"""Every second sample of 48 kHz (VATT appendix A.3)."""


class ImportOptions(Choices):
    """What a checkpoint does not hold."""

    frame_rate_hz: float | None = Field(default=None, gt=0)
    """Of the video that the model was trained on; None is the original's."""
    vocabulary: Path | None = None
    """The words of the text tower, one a line; None leaves the export without a tokenizer."""


class Fate(NamedTuple):
    """What became of one tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    text: str
    """Our tensor, with rows where it is a part of one; or why it was left out."""


def main(checkpoint: Path, out: Path, given: Mapping[str, Any]) -> None:
    """Import with the options that are `given` (None is the default); print the fate of each tensor.

    Raises:
        StageError: an option is out of range, or the import failed.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        options = ImportOptions.model_validate(chosen)
    except ValidationError as error:
        raise StageError(explain(error)) from error
    fates = import_checkpoint(checkpoint, out, options)
    for fate in fates:
        print(f"{fate.name} {fate.shape} -> {fate.text}")
    num_left_out = sum(fate.text.startswith(LEFT_OUT) for fate in fates)
    num_taken = len(fates) - num_left_out
    print(f"{out}: {num_taken} tensors taken over, {num_left_out} left out; see {out / PARAMS}")


def import_checkpoint(checkpoint: Path, out: Path, options: ImportOptions) -> list[Fate]:
    """Write an original checkpoint as an export to the new folder `out`; return every tensor's fate.

    The network is worked out from the shapes. Weights are read one at a time.

    Raises:
        StageError: `out` exists or cannot be written, the checkpoint is damaged or of another
            model, or the vocabulary does not fit; the message names files and tensors.
    """
    _check_new(out)
    bundle = TensorBundle(checkpoint)
    left_out = {name: _explain_omission(name, entry) for name, entry in bundle.entries.items()}
    weights = {name: entry for name, entry in bundle.entries.items() if not left_out[name]}
    try:
        network = read_architecture({name: entry.shape for name, entry in weights.items()}, options)
        with torch.device("meta"):  # names and shapes only
            model = Classifier(network) if isinstance(network, ClassifierParams) else Vatt(*network)
        sources = find_originals(collect_weights(model), weights)
        check_names(sources, weights)
        _check_tensors(collect_weights(model), sources, weights)
    except StageError as error:
        raise StageError(f"{checkpoint}: {error}") from error
    _check_vocabulary(network, options.vocabulary)
    model.load_state_dict(lay_out_weights(sources, bundle), strict=False, assign=True)
    try:
        _save(out, model, network, options)
    except (OSError, SafetensorError) as error:
        raise _explain_unwritable(out, error) from error
    return _list_fates(bundle.entries, left_out, sources)


def _check_new(out: Path) -> None:
    try:
        is_there = out.exists()
    except OSError as error:
        raise _explain_unwritable(out, error) from error
    if is_there:
        raise StageError(f"{out}: exists already; name a new folder, or remove it")


def _explain_unwritable(out: Path, error: Exception) -> StageError:
    return StageError(f"{out}: cannot be written: {error}")


def _explain_omission(name: str, entry: TensorEntry) -> str:
    """Return why a tensor is none of the model's; empty where it is one."""
    if entry.is_text:
        return "text, no weight"
    if "/.OPTIMIZER_SLOT/" in name or name.startswith("optimizer/"):
        return "state of the optimiser"
    if name == "save_counter":
        return "counts the checkpoints"
    return ""


def _check_tensors(
    ours: Mapping[str, torch.Tensor], sources: Sources, weights: Mapping[str, TensorEntry]
) -> None:
    """Refuse tensors that are not float32, or do not have the shape that the others ask for."""
    problems = []
    for name, keys in sources.items():
        num_rows, *rest = ours[name].shape
        expected = (num_rows // len(keys), *rest)
        for key in keys:
            entry = weights[key]
            if entry.dtype != np.float32:
                problems.append(f"{key}: is {entry.dtype or 'of an unknown type'}, not float32")
            elif find_shape(key, entry.shape) != expected:
                problems.append(f"{key}: has shape {entry.shape}, its part of {name} is {expected}")
    if problems:
        raise StageError("original weights do not fit: " + "; ".join(problems))


def _check_vocabulary(network: Network | ClassifierParams, vocabulary: Path | None) -> None:
    if vocabulary is None:
        return
    if isinstance(network, ClassifierParams):
        raise StageError(f"{vocabulary}: a classifier has no text, so it takes no vocabulary")
    num_words = WordTokenizer(vocabulary).vocab_size
    if num_words != network.vocab_size:
        raise StageError(
            f"{vocabulary}: has {num_words} words, the checkpoint's table {network.vocab_size}"
        )


def _save(
    out: Path, model: nn.Module, network: Network | ClassifierParams, options: ImportOptions
) -> None:
    rate_hz = options.frame_rate_hz
    if isinstance(model, Classifier) and isinstance(network, ClassifierParams):
        classifier = ExportedClassifierParams(
            classifier=network,
            frame_rate_hz=rate_hz or CLASSIFIER_RATE_HZ,
            audio_stride=CLASSIFIER_AUDIO_STRIDE,
            code_version=version("vatt"),
        )
        save_classifier(out, model, classifier)
    elif isinstance(model, Vatt) and isinstance(network, Network):
        params = ExportedParams(
            clip=network.clip,
            model=network.model,
            frame_rate_hz=rate_hz or PRETRAINING_RATE_HZ,
            vocab_size=network.vocab_size,
            tokenizer=VOCABULARY_NAME if options.vocabulary else None,
            seed=0,
            code_version=version("vatt"),
        )
        save_export(out, model, params, options.vocabulary)


def _list_fates(
    entries: Mapping[str, TensorEntry], left_out: Mapping[str, str], sources: Sources
) -> list[Fate]:
    texts = {name: LEFT_OUT + reason for name, reason in left_out.items()}
    for name, keys in sources.items():
        row = 0
        for key in keys:
            num_rows = find_shape(key, entries[key].shape)[0]
            texts[key] = f"{name}[{row}:{row + num_rows}]" if len(keys) > 1 else name
            row += num_rows
    return [Fate(name, entry.shape, texts[name]) for name, entry in entries.items()]
