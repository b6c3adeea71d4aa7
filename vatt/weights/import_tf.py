"""The command `python -m vatt import-tf CHECKPOINT OUT`: TensorFlow weights to an export."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from vatt.core.errors import StageError
from vatt.corpus.tokenizer import WordTokenizer
from vatt.model.towers import collect_weights
from vatt.weights.architecture import ImportOptions, explain, read_architecture
from vatt.weights.export import (
    PARAMS,
    AnyParams,
    ExportedClassifierParams,
    build_untrained,
    save_export,
)
from vatt.weights.original import find_originals, find_shape, lay_out_weights
from vatt.weights.tensor_bundle import TensorBundle, TensorEntry

Sources = Mapping[str, tuple[str, ...]]
"""For each of our tensors the original one, or the two that it is made of."""

LEFT_OUT = "left out: "


class Fate(NamedTuple):
    """What became of one tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    text: str
    """Our tensor, with rows where it is a part of one; or why it was left out."""


def main(checkpoint: Path, out: Path, given: Mapping[str, Any]) -> None:
    """Import with the options `given` (None is the default); print the fate of each tensor.

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
    """Write an original checkpoint as an export to the new folder `out`; return all fates.

    The network is worked out from the shapes. Weights are read one at a time.

    Raises:
        StageError: `out` exists or cannot be written, the checkpoint is damaged or of another
            model, or the vocabulary does not fit; the message names files and tensors.
    """
    with _name_unwritable(out):
        if out.exists():
            raise StageError(f"{out}: exists already; name a new folder, or remove it")
    bundle = TensorBundle(checkpoint)
    texts = {name: _explain_omission(name, entry) for name, entry in bundle.entries.items()}
    weights = {name: entry for name, entry in bundle.entries.items() if not texts[name]}
    try:
        params = read_architecture({name: entry.shape for name, entry in weights.items()}, options)
        with torch.device("meta"):  # names and shapes only
            model = build_untrained(params)
        sources = find_originals(collect_weights(model), weights)
        _check_tensors(collect_weights(model), sources, weights)
    except StageError as error:
        raise StageError(f"{checkpoint}: {error}") from error
    _check_vocabulary(params, options.vocabulary)
    # Assigned, because tensors on the device meta have no memory to copy to.
    model.load_state_dict(lay_out_weights(sources, bundle), strict=False, assign=True)
    with _name_unwritable(out):
        save_export(out, model, params, options.vocabulary)
    for name, keys in sources.items():
        row = 0
        for key in keys:
            num_rows = find_shape(key, weights[key].shape)[0]
            texts[key] = f"{name}[{row}:{row + num_rows}]" if len(keys) > 1 else name
            row += num_rows
    return [Fate(name, entry.shape, texts[name]) for name, entry in bundle.entries.items()]


@contextmanager
def _name_unwritable(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StageError(f"{out}: cannot be written: {error}") from error


def _explain_omission(name: str, entry: TensorEntry) -> str:
    """Return why a tensor is none of the model's; empty where it is one."""
    if entry.dtype == object:
        return f"{LEFT_OUT}text, no weight"
    if "/.OPTIMIZER_SLOT/" in name or name.startswith("optimizer/"):
        return f"{LEFT_OUT}state of the optimiser"
    return f"{LEFT_OUT}counts the checkpoints" if name == "save_counter" else ""


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


def _check_vocabulary(params: AnyParams, vocabulary: Path | None) -> None:
    if vocabulary is None:
        return
    if isinstance(params, ExportedClassifierParams):
        raise StageError(f"{vocabulary}: a classifier has no text, so it takes no vocabulary")
    num_words = WordTokenizer(vocabulary).vocab_size
    if num_words != params.vocab_size:
        raise StageError(
            f"{vocabulary}: has {num_words} words, the checkpoint's table {params.vocab_size}"
        )
