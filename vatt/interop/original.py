"""Names and layouts of the original TensorFlow weights, matched to ours (modality-specific VATT)."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vatt.params import StageError

_BASE = "model/layer_with_weights-0/_base_layer/"
_HEADS = "model/layer_with_weights-0/_head_layer/_bridge_heads/0/"

_DENSE = {"weight": "kernel", "bias": "bias"}
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_variance": "moving_variance",
}
_RMS_NORM = {"weight": "weight"}
_TABLE = {"weight": "embeddings", "table": "embeddings"}
_AGG = {"vector": "agg_embedding"}


class _Rule(NamedTuple):
    """Our module (a regular expression), the original one or two, and the names of their tensors."""

    module: str
    originals: tuple[str, ...]
    tensors: Mapping[str, str]


def _tower_rules(ours: str, original: str, patches: str, axes: Iterable[str]) -> list[_Rule]:
    """Return the rules of the video or the audio tower."""
    tower, layer = _BASE + original + "/_base/", _BASE + original + r"/_base/tx/layers/\1/"
    block = ours + r"\.encoder\.blocks\.(\d+)\."
    positions = [
        _Rule(
            rf"{ours}\.stem\.positions\.tables\.{index}",
            (f"{tower}pos_embedding_lookup/{axis}_position_embeddings",),
            _TABLE,
        )
        for index, axis in enumerate(axes)
    ]
    return [
        *positions,
        _Rule(rf"{ours}\.stem\.agg_token", (tower.removesuffix("/"),), _AGG),
        _Rule(rf"{ours}\.stem\.patches\.projection", (tower + patches,), _DENSE),
        _Rule(
            rf"{ours}\.stem\.positions\.norm", (tower + "pos_embedding_lookup/layernorm",), _NORM
        ),
        _Rule(block + "attention_norm", (layer + "layer_norm",), _NORM),
        _Rule(block + r"attention\.query", (layer + "mha/q",), _DENSE),
        _Rule(block + r"attention\.key_value", (layer + "mha/k", layer + "mha/v"), _DENSE),
        _Rule(block + r"attention\.output", (layer + "mha/o",), _DENSE),
        _Rule(block + "mlp_norm", (layer + "feed_forward/layer_norm",), _NORM),
        _Rule(block + r"mlp\.0", (layer + "feed_forward/mlp/wi",), _DENSE),
        _Rule(block + r"mlp\.3", (layer + "feed_forward/mlp/wo",), _DENSE),
        _Rule(rf"{ours}\.encoder\.norm", (tower + "tx/final_layer_norm",), _NORM),
    ]


def _text_rules() -> list[_Rule]:
    """Return the rules of the text tower."""
    tower, layer = _BASE + "txt_backbone/", _BASE + r"txt_backbone/base_lm/layers/\1/"
    attention = layer + "self_attention/attention/"
    bias = tower + "base_lm/layers/0/self_attention/attention/relative_attention_bias"
    block = r"text\.encoder\.blocks\.(\d+)\."
    return [
        _Rule(r"text\.stem\.agg_token", (tower.removesuffix("/"),), _AGG),
        _Rule(r"text\.stem\.words", (tower + "embedding",), _TABLE),
        _Rule(r"text\.stem\.projection", (tower + "pre_proj",), _DENSE),
        _Rule(r"text\.stem\.relative_bias\.table", (bias,), _TABLE),
        _Rule(block + "attention_norm", (layer + "self_attention/layer_norm",), _RMS_NORM),
        _Rule(block + r"attention\.query", (attention + "q",), _DENSE),
        _Rule(block + r"attention\.key_value", (attention + "k", attention + "v"), _DENSE),
        _Rule(block + r"attention\.output", (attention + "o",), _DENSE),
        _Rule(block + "mlp_norm", (layer + "feed_forward/layer_norm",), _NORM),
        _Rule(block + r"mlp\.0", (layer + "feed_forward/mlp/wi",), _DENSE),
        _Rule(block + r"mlp\.3", (layer + "feed_forward/mlp/wo",), _DENSE),
        _Rule(r"text\.encoder\.norm", (tower + "base_lm/final_layer_norm",), _RMS_NORM),
    ]


_RULES = [
    *_tower_rules(
        "video", "vid_backbone", "voxel_to_patch", ("temporal", "vertical", "horizontal")
    ),
    *_tower_rules("audio", "aud_backbone", "wave_to_patch", ("temporal",)),
    *_text_rules(),
    _Rule(r"video_projection\.to_hidden", (_HEADS + "vid_to_hid",), _DENSE),
    _Rule(r"video_projection\.hidden_norm", (_HEADS + "hid_to_va/pre_bn",), _NORM),
    _Rule(r"video_projection\.to_va", (_HEADS + "hid_to_va/dense",), _DENSE),
    _Rule(r"video_projection\.va_norm", (_HEADS + "hid_to_va/bn",), _NORM),
    _Rule(r"video_projection\.to_vt", (_HEADS + "va_to_vat/dense",), _DENSE),
    _Rule(r"video_projection\.vt_norm", (_HEADS + "va_to_vat/bn",), _NORM),
    _Rule("audio_projection", (_HEADS + "aud_to_va",), _DENSE),
    _Rule("text_projection", (_HEADS + "txt_to_vat",), _DENSE),
]


def original_keys(name: str) -> tuple[str, ...]:
    """Return the key of the original tensor for our `name`; two keys where ours fuses two.

    Raises:
        KeyError: no such tensor in the modality-specific model.
    """
    module, _, tensor = name.rpartition(".")
    for rule in _RULES:
        match = re.fullmatch(rule.module, module)
        if match and tensor in rule.tensors:
            return tuple(f"{match.expand(key)}/{rule.tensors[tensor]}" for key in rule.originals)
    raise KeyError(name)


def state_from_original(
    names: Iterable[str], original: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """Return our tensors `names`, as in a state dict, from original ones.

    Raises:
        StageError: an original tensor is missing, or one is left over.
    """
    sources = {name: original_keys(name) for name in names}
    needed = {key for keys in sources.values() for key in keys}
    problems = [f"{key}: is missing" for key in sorted(needed - original.keys())]
    problems += [f"{key}: has no place in this model" for key in sorted(original.keys() - needed)]
    if problems:
        raise StageError("original weights do not fit: " + "; ".join(problems))
    return {
        name: torch.cat([_layout(key, original[key]) for key in keys])
        for name, keys in sources.items()
    }


def _layout(key: str, value: np.ndarray) -> Float[Tensor, "..."]:
    """Return a tensor as torch lays it out: kernels, of convolutions too, become (out, in)."""
    tensor = torch.from_numpy(value.copy())
    return tensor.flatten(0, -2).T if key.endswith("/kernel") else tensor
