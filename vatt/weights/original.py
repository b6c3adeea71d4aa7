"""Names and layouts of the original TensorFlow weights, matched to ours.

Our modules stand in tables, below the path of a tower; a layer is number N on both sides.
"""

import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import torch
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

_DENSE = {"weight": "kernel", "bias": "bias"}
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_variance": "moving_variance",
}
_RMS_NORM = {"weight": "weight"}
_WORDS = {"weight": "embeddings"}
_POSITIONS = {"table": "embeddings"}
_TOKEN = {"vector": ""}  # the path names the tensor itself


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
    if any(key.startswith(UNIFIED) for key in keys):
        return _describe_unified() | _HEADS
    if any(key.startswith(f"{CLASSIFIER_TOWER}/") for key in keys):
        tower = _describe_tower(*INPUTS[find_input(CLASSIFIER_TOWER, keys)])
        return _below("tower.", CLASSIFIER_TOWER, tower) | {"head": (_DENSE, CLASSIFIER_HEAD)}
    table = _TEXT | _HEADS
    for ours, theirs in (("video.", VIDEO), ("audio.", AUDIO)):
        tower = _describe_tower(*INPUTS[find_input(theirs, keys)])
        table |= _below(ours, theirs, tower)
    return table


def _below(ours: str, theirs: str, table: Table) -> Table:
    """Return a table for modules whose names begin with `ours` and `theirs`."""
    return {
        ours + name: (tensors, *(f"{theirs}/{path}" for path in paths))
        for name, (tensors, *paths) in table.items()
    }


def _describe_tower(
    patches: str, axes: Iterable[str], agg: str = "agg_embedding", part: str = ""
) -> Table:
    """Return the table of a tower; `part` is that of a modality where towers share an encoder."""
    positions = f"pos_embedding_lookup{part}"
    tables: Table = {
        f"stem.positions.tables.{index}": (_POSITIONS, f"{positions}/{axis}_position_embeddings")
        for index, axis in enumerate(axes)
    }
    return {
        "stem.patches.projection": (_DENSE, patches),
        "stem.pre_projection.0": (_DENSE, f"pre_proj{part}"),
        "stem.agg_token": (_TOKEN, agg),
        **tables,
        "stem.positions.norm": (_NORM, f"{positions}/layernorm"),
        **_describe_encoder("tx", _NORM, "layer_norm", "mha"),
        "post_projection.0": (_DENSE, f"post_proj{part}"),
    }


def _describe_encoder(path: str, norm: Mapping[str, str], norm_path: str, attention: str) -> Table:
    layer: Table = {
        "attention_norm": (norm, norm_path),
        "attention.query": (_DENSE, f"{attention}/q"),
        "attention.key_value": (_DENSE, f"{attention}/k", f"{attention}/v"),
        "attention.output": (_DENSE, f"{attention}/o"),
        "mlp_norm": (_NORM, "feed_forward/layer_norm"),  # in T5, too
        "mlp.0": (_DENSE, "feed_forward/mlp/wi"),
        "mlp.3": (_DENSE, "feed_forward/mlp/wo"),
    }
    layers = _below("encoder.blocks.N.", f"{path}/layers/N", layer)
    return layers | {"encoder.norm": (norm, f"{path}/final_layer_norm")}


def _describe_unified() -> Table:
    """Return the table of all towers of the modality-agnostic VATT."""
    table: Table = {
        "text.stem.words": (_WORDS, f"{UNIFIED}/raw_to_embeddings/text"),
        "text.stem.projection": (_DENSE, f"{UNIFIED}/pre_proj/text"),
    }
    for ours, agg, axes in (
        ("video", "vid_agg_embedding", INPUTS["video"][1]),
        ("audio", "aud_agg_embedding", INPUTS["waveform"][1]),
        ("text", "txt_agg_embedding", ("temporal",)),
    ):
        tower = _describe_tower(f"raw_to_embeddings/{ours}", axes, agg, f"/{ours}")
        table |= _below(f"{ours}.", UNIFIED, tower)
    return table


_T5_ATTENTION = "self_attention/attention"
_T5: Table = {
    "stem.agg_token": (_TOKEN, "agg_embedding"),
    "stem.words": (_WORDS, "embedding"),
    "stem.projection": (_DENSE, "pre_proj"),
    "stem.relative_bias.table": (
        _WORDS,
        f"base_lm/layers/0/{_T5_ATTENTION}/relative_attention_bias",
    ),
    **_describe_encoder("base_lm", _RMS_NORM, "self_attention/layer_norm", _T5_ATTENTION),
}
_TEXT = _below("text.", TEXT, _T5)
# The three projections to the shared spaces: from fine to coarse (FAC).
_HEADS: Table = {
    "video_projection.to_hidden": (_DENSE, f"{HEADS}/vid_to_hid"),
    "video_projection.hidden_norm": (_NORM, f"{HEADS}/hid_to_va/pre_bn"),
    "video_projection.to_va": (_DENSE, f"{HEADS}/hid_to_va/dense"),
    "video_projection.va_norm": (_NORM, f"{HEADS}/hid_to_va/bn"),
    "video_projection.to_vt": (_DENSE, f"{HEADS}/va_to_vat/dense"),
    "video_projection.vt_norm": (_NORM, f"{HEADS}/va_to_vat/bn"),
    "audio_projection": (_DENSE, f"{HEADS}/aud_to_va"),
    "text_projection": (_DENSE, f"{HEADS}/txt_to_vat"),
}
