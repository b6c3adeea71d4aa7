"""Names and layouts of the original TensorFlow weights, matched to ours."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
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

AXES = {
    "voxel_to_patch": ("temporal", "vertical", "horizontal"),
    "wave_to_patch": ("temporal",),
    "spectrum_to_patch": ("temporal", "spectoral"),  # so the original spells it
}
"""The layers that project patches of video, waveform or spectrogram, and the axes of their grids."""
AGG_TOKENS = {
    "video": "vid_agg_embedding",
    "audio": "aud_agg_embedding",
    "text": "txt_agg_embedding",
}
"""Of the modality-agnostic VATT."""

_DENSE = {"weight": "kernel", "bias": "bias"}
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_variance": "moving_variance",
}
_RMS_NORM = {"weight": "weight"}
_TABLE = {"weight": "embeddings", "table": "embeddings"}


class _Rule(NamedTuple):
    """Our module (a regular expression), the original one or two, and the names of their tensors."""

    module: str
    originals: tuple[str, ...]
    tensors: Mapping[str, str]


def find_patches(tower: str, keys: Collection[str]) -> str:
    """Return which of `AXES` an original tower has; the first where its `keys` show none."""
    found = (name for name in AXES if any(key.startswith(f"{tower}/{name}/") for key in keys))
    return next(found, next(iter(AXES)))


def find_originals(names: Iterable[str], keys: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the original key of each of our `names`; two keys where ours fuses two.

    Which model it is, is seen from the original `keys`, which need not be complete.

    Raises:
        KeyError: no such tensor in that model.
    """
    rules = _find_rules(keys)
    return {name: _apply_rules(rules, name) for name in names}


def state_from_original(
    names: Iterable[str], original: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """Return our tensors `names`, as in a state dict, from original ones.

    Raises:
        StageError: an original tensor is missing, or one is left over.
    """
    sources = find_originals(names, original.keys())
    check_names(sources, original.keys())
    return lay_out_weights(sources, original)


def lay_out_weights(
    sources: Mapping[str, tuple[str, ...]], original: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """Return our tensors by name from those `sources`, each read when its turn comes."""
    return {
        name: torch.cat([_lay_out(key, original[key]) for key in keys])
        for name, keys in sources.items()
    }


def check_names(sources: Mapping[str, tuple[str, ...]], keys: Collection[str]) -> None:
    """Refuse original `keys` that are not exactly those of `sources`.

    Raises:
        StageError: one is missing or left over; the message names all of them.
    """
    needed = {key for originals in sources.values() for key in originals}
    problems = [f"{key}: is missing" for key in sorted(needed - set(keys))]
    problems += [f"{key}: has no place in this model" for key in sorted(set(keys) - needed)]
    if problems:
        raise StageError("original weights do not fit: " + "; ".join(problems))


def find_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that an original tensor has among ours."""
    if not key.endswith("/kernel") or len(shape) < 2:
        return shape
    return shape[-1], int(np.prod(shape[:-1]))


def _lay_out(key: str, value: np.ndarray) -> Float[Tensor, "..."]:
    """Return a tensor as torch lays it out: kernels, of convolutions too, become (out, in)."""
    tensor = torch.from_numpy(value.copy())
    return tensor.flatten(0, -2).T if key.endswith("/kernel") else tensor


def _apply_rules(rules: Iterable[_Rule], name: str) -> tuple[str, ...]:
    module, _, tensor = name.rpartition(".")
    for rule in rules:
        match = re.fullmatch(rule.module, module)
        if match and tensor in rule.tensors:
            return tuple(f"{match.expand(key)}/{rule.tensors[tensor]}" for key in rule.originals)
    raise KeyError(name)


def _find_rules(keys: Collection[str]) -> list[_Rule]:
    if any(key.startswith(UNIFIED) for key in keys):
        return [*_unified_rules(), *_HEAD_RULES]
    if any(key.startswith(f"{CLASSIFIER_TOWER}/") for key in keys):
        return _classifier_rules(keys)
    return [
        *_tower_rules("video", VIDEO, find_patches(VIDEO, keys)),
        *_tower_rules("audio", AUDIO, find_patches(AUDIO, keys)),
        *_TEXT_RULES,
        *_HEAD_RULES,
    ]


def _tower_rules(ours: str, tower: str, patches: str) -> list[_Rule]:
    """Return the rules of a tower that shares nothing."""
    return [
        _Rule(rf"{ours}\.stem\.patches\.projection", (f"{tower}/{patches}",), _DENSE),
        _Rule(rf"{ours}\.stem\.pre_projection\.0", (f"{tower}/pre_proj",), _DENSE),
        _Rule(rf"{ours}\.stem\.agg_token", (tower,), {"vector": "agg_embedding"}),
        *_position_rules(ours, f"{tower}/pos_embedding_lookup", AXES[patches]),
        *_encoder_rules(ours, f"{tower}/tx"),
        _Rule(rf"{ours}\.post_projection\.0", (f"{tower}/post_proj",), _DENSE),
    ]


def _position_rules(ours: str, positions: str, axes: Iterable[str]) -> list[_Rule]:
    tables = [
        _Rule(
            rf"{ours}\.stem\.positions\.tables\.{index}",
            (f"{positions}/{axis}_position_embeddings",),
            _TABLE,
        )
        for index, axis in enumerate(axes)
    ]
    return [*tables, _Rule(rf"{ours}\.stem\.positions\.norm", (f"{positions}/layernorm",), _NORM)]


def _encoder_rules(ours: str, encoder: str) -> list[_Rule]:
    block, layer = rf"{ours}\.encoder\.blocks\.(\d+)\.", encoder + r"/layers/\1/"
    return [
        _Rule(block + "attention_norm", (layer + "layer_norm",), _NORM),
        _Rule(block + r"attention\.query", (layer + "mha/q",), _DENSE),
        _Rule(block + r"attention\.key_value", (layer + "mha/k", layer + "mha/v"), _DENSE),
        _Rule(block + r"attention\.output", (layer + "mha/o",), _DENSE),
        _Rule(block + "mlp_norm", (layer + "feed_forward/layer_norm",), _NORM),
        _Rule(block + r"mlp\.0", (layer + "feed_forward/mlp/wi",), _DENSE),
        _Rule(block + r"mlp\.3", (layer + "feed_forward/mlp/wo",), _DENSE),
        _Rule(rf"{ours}\.encoder\.norm", (f"{encoder}/final_layer_norm",), _NORM),
    ]


def _text_rules() -> list[_Rule]:
    """Return the rules of the T5-style text tower."""
    layer = TEXT + r"/base_lm/layers/\1/"
    attention = layer + "self_attention/attention/"
    bias = TEXT + "/base_lm/layers/0/self_attention/attention/relative_attention_bias"
    block = r"text\.encoder\.blocks\.(\d+)\."
    return [
        _Rule(r"text\.stem\.agg_token", (TEXT,), {"vector": "agg_embedding"}),
        _Rule(r"text\.stem\.words", (TEXT + "/embedding",), _TABLE),
        _Rule(r"text\.stem\.projection", (TEXT + "/pre_proj",), _DENSE),
        _Rule(r"text\.stem\.relative_bias\.table", (bias,), _TABLE),
        _Rule(block + "attention_norm", (layer + "self_attention/layer_norm",), _RMS_NORM),
        _Rule(block + r"attention\.query", (attention + "q",), _DENSE),
        _Rule(block + r"attention\.key_value", (attention + "k", attention + "v"), _DENSE),
        _Rule(block + r"attention\.output", (attention + "o",), _DENSE),
        _Rule(block + "mlp_norm", (layer + "feed_forward/layer_norm",), _NORM),
        _Rule(block + r"mlp\.0", (layer + "feed_forward/mlp/wi",), _DENSE),
        _Rule(block + r"mlp\.3", (layer + "feed_forward/mlp/wo",), _DENSE),
        _Rule(r"text\.encoder\.norm", (TEXT + "/base_lm/final_layer_norm",), _RMS_NORM),
    ]


def _unified_rules() -> list[_Rule]:
    """Return the rules of the modality-agnostic VATT: a stem for each modality, one encoder."""
    rules = _encoder_rules("(?:video|audio|text)", f"{UNIFIED}/tx")
    for ours, patches in (("video", "voxel_to_patch"), ("audio", "wave_to_patch")):
        raw = f"{UNIFIED}/raw_to_embeddings/{ours}"
        rules += [
            _Rule(rf"{ours}\.stem\.patches\.projection", (raw,), _DENSE),
            _Rule(rf"{ours}\.stem\.pre_projection\.0", (f"{UNIFIED}/pre_proj/{ours}",), _DENSE),
            *_position_rules(ours, f"{UNIFIED}/pos_embedding_lookup/{ours}", AXES[patches]),
        ]
    rules += [
        _Rule(r"text\.stem\.words", (f"{UNIFIED}/raw_to_embeddings/text",), _TABLE),
        _Rule(r"text\.stem\.projection", (f"{UNIFIED}/pre_proj/text",), _DENSE),
        *_position_rules("text", f"{UNIFIED}/pos_embedding_lookup/text", ["temporal"]),
    ]
    for ours, agg_token in AGG_TOKENS.items():
        rules += [
            _Rule(rf"{ours}\.stem\.agg_token", (UNIFIED,), {"vector": agg_token}),
            _Rule(rf"{ours}\.post_projection\.0", (f"{UNIFIED}/post_proj/{ours}",), _DENSE),
        ]
    return rules


def _classifier_rules(keys: Collection[str]) -> list[_Rule]:
    """Return the rules of a fine-tuned classifier: one tower and a linear layer."""
    tower = CLASSIFIER_TOWER
    return [
        *_tower_rules("tower", tower, find_patches(tower, keys)),
        _Rule("head", (CLASSIFIER_HEAD,), _DENSE),
    ]


_TEXT_RULES = _text_rules()
# The three projections to the shared spaces: from fine to coarse (FAC).
_HEAD_RULES = [
    _Rule(r"video_projection\.to_hidden", (HEADS + "/vid_to_hid",), _DENSE),
    _Rule(r"video_projection\.hidden_norm", (HEADS + "/hid_to_va/pre_bn",), _NORM),
    _Rule(r"video_projection\.to_va", (HEADS + "/hid_to_va/dense",), _DENSE),
    _Rule(r"video_projection\.va_norm", (HEADS + "/hid_to_va/bn",), _NORM),
    _Rule(r"video_projection\.to_vt", (HEADS + "/va_to_vat/dense",), _DENSE),
    _Rule(r"video_projection\.vt_norm", (HEADS + "/va_to_vat/bn",), _NORM),
    _Rule("audio_projection", (HEADS + "/aud_to_va",), _DENSE),
    _Rule("text_projection", (HEADS + "/txt_to_vat",), _DENSE),
]
