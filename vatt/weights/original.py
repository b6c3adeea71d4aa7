"""Names and layouts of the original TensorFlow weights, matched to ours.

The modules of both are listed in original.yaml.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from vatt.core.errors import StageError

_ROOT = "model/layer_with_weights-0/"
VIDEO = _ROOT + "_base_layer/vid_backbone/_base"
AUDIO = _ROOT + "_base_layer/aud_backbone/_base"
TEXT = _ROOT + "_base_layer/txt_backbone"
UNIFIED = _ROOT + "_base_layer/unified_backbone/unified_transformer"
"""The towers of the modality-agnostic VATT, which share an encoder."""
HEADS = _ROOT + "_head_layer/_bridge_heads/0"
CLASSIFIER_TOWER = _ROOT + "_base"
CLASSIFIER_HEAD = _ROOT + "_ops/cls"

INPUTS = {
    "video": ("voxel_to_patch", ("temporal", "vertical", "horizontal")),
    "waveform": ("wave_to_patch", ("temporal",)),
    "spectrogram": ("spectrum_to_patch", ("temporal", "spectoral")),  # so the original spells it
}
"""For each input of a tower: the layer that projects patches, and the axes of their grid."""

Table = dict[str, tuple[Mapping[str, str], *tuple[str, ...]]]
"""For each module of ours: the original names of its tensors, and the path of the original module,
or of the two that ours fuses."""
_TABLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
_KINDS: Mapping[str, Mapping[str, str]] = _TABLES["kinds"]


def find_input(tower: str, keys: Collection[str]) -> str:
    """Return the input of an original tower; video where its `keys` show none."""
    for kind, (layer, _) in INPUTS.items():
        if any(key.startswith(f"{tower}/{layer}/") for key in keys):
            return kind
    return "video"


def find_originals(names: Iterable[str], keys: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the original key of each of our `names`; two keys where ours fuses two.

    Which model it is, is seen from the original `keys`.

    Raises:
        KeyError: no such tensor in that model.
        StageError: one of the keys is missing or left over; the message names all of them.
    """
    table = _choose_table(keys)
    sources = {}
    for name in names:
        module, _, tensor = name.rpartition(".")
        layer = re.search(r"\.blocks\.(\d+)\.", name)
        number = layer[1] if layer else ""
        tensors, *paths = table[module.replace(f".blocks.{number}.", ".blocks.N.")]
        keys_of_layer = (
            f"{path.replace('/N/', f'/{number}/')}/{tensors[tensor]}" for path in paths
        )
        sources[name] = tuple(key.rstrip("/") for key in keys_of_layer)
    needed = {key for originals in sources.values() for key in originals}
    problems = [f"{key}: is missing" for key in sorted(needed - set(keys))]
    problems += [f"{key}: has no place in this model" for key in sorted(set(keys) - needed)]
    if problems:
        raise StageError("original weights do not fit: " + "; ".join(problems))
    return sources


def state_from_original(
    names: Iterable[str], original: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """Return our tensors `names`, as in a state dict, from original ones; see `find_originals`."""
    return lay_out_weights(find_originals(names, original.keys()), original)


def lay_out_weights(
    sources: Mapping[str, tuple[str, ...]], original: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """Return our tensors by name from those `sources`, each read when its turn comes.

    Kernels, of convolutions too, become (out, in), as torch lays them out.
    """

    def lay_out(key: str) -> Tensor:
        tensor = torch.from_numpy(original[key].copy())
        return tensor.flatten(0, -2).T if key.endswith("/kernel") else tensor

    return {name: torch.cat([*map(lay_out, keys)]) for name, keys in sources.items()}


def find_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that an original tensor has among ours."""
    if not key.endswith("/kernel") or len(shape) < 2:
        return shape
    return shape[-1], int(np.prod(shape[:-1]))


def _choose_table(keys: Collection[str]) -> Table:
    if any(key.startswith(f"{CLASSIFIER_TOWER}/") for key in keys):
        kind = find_input(CLASSIFIER_TOWER, keys)
        table = _describe_tower("tower.", CLASSIFIER_TOWER, *INPUTS[kind])
        return table | {"head": (_KINDS["dense"], CLASSIFIER_HEAD)}
    table = _fill("heads", "", HEADS)
    if any(key.startswith(UNIFIED) for key in keys):
        table |= _fill("text_of_shared_encoder", "text.", UNIFIED)
        for ours, agg, axes in (
            ("video", "vid_agg_embedding", INPUTS["video"][1]),
            ("audio", "aud_agg_embedding", INPUTS["waveform"][1]),
            ("text", "txt_agg_embedding", ("temporal",)),
        ):
            patches, part = f"raw_to_embeddings/{ours}", f"/{ours}"
            table |= _describe_tower(f"{ours}.", UNIFIED, patches, axes, agg, part)
        return table
    names = {"norm_path": "self_attention/layer_norm", "attention": "self_attention/attention"}
    table |= _fill("t5", "text.", TEXT)
    table |= _fill("encoder", "text.", TEXT, path="base_lm", norm="rms_norm", **names)
    for ours, theirs in (("video.", VIDEO), ("audio.", AUDIO)):
        table |= _describe_tower(ours, theirs, *INPUTS[find_input(theirs, keys)])
    return table


def _describe_tower(
    ours: str,
    theirs: str,
    patches: str,
    axes: Iterable[str],
    agg: str = "agg_embedding",
    part: str = "",
) -> Table:
    """Return the table of a tower; `part` is that of a modality where towers share an encoder."""
    positions = f"{theirs}/pos_embedding_lookup{part}"
    tables: Table = {
        f"{ours}stem.positions.tables.{index}": (
            _KINDS["positions"],
            f"{positions}/{axis}_position_embeddings",
        )
        for index, axis in enumerate(axes)
    }
    names = {"norm": "norm", "norm_path": "layer_norm", "attention": "mha"}
    tables |= _fill("tower", ours, theirs, patches=patches, agg=agg, part=part)
    return tables | _fill("encoder", ours, theirs, path="tx", **names)


def _fill(section: str, ours: str, theirs: str, **names: str) -> Table:
    """Return a table of original.yaml for modules whose paths begin with `ours` and `theirs`."""
    return {
        ours + name: (
            _KINDS[kind.format(**names)],
            *(f"{theirs}/{path.format(**names)}" for path in paths),
        )
        for name, (kind, *paths) in _TABLES[section].items()
    }
