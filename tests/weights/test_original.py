"""Original weights: every tensor has its place, and none is left over or missing."""

from pathlib import Path

import numpy as np
import pytest

from tests.model.original import Original
from vatt.core.errors import StageError
from vatt.weights.original import find_originals, state_from_original

SPECIFIC = Original("ms")
REFERENCE = Path(__file__).parents[1] / "reference"


def test_every_tensor_has_an_original_of_its_own() -> None:
    sources = find_originals(SPECIFIC.build_model().state_dict(), SPECIFIC.group("w::"))
    keys = [key for originals in sources.values() for key in originals]
    assert sorted(keys) == sorted(SPECIFIC.group("w::"))


def test_keys_and_values_are_fused_in_this_order() -> None:
    weights = SPECIFIC.group("w::")
    name = "video.encoder.blocks.1.attention.key_value.weight"
    key, value = find_originals(SPECIFIC.build_model().state_dict(), weights)[name]
    assert (key[-8:], value[-8:]) == ("k/kernel", "v/kernel")
    fused = state_from_original([name], {key: weights[key], value: weights[value]})[name].numpy()
    np.testing.assert_array_equal(fused[:32], weights[key].T)
    np.testing.assert_array_equal(fused[32:], weights[value].T)


def test_left_over_tensors_are_refused_by_name() -> None:
    weights = {**SPECIFIC.group("w::"), "model/extra/kernel": SPECIFIC.group("w::").popitem()[1]}
    with pytest.raises(StageError, match="model/extra/kernel: has no place"):
        state_from_original(SPECIFIC.build_model().state_dict(), weights)


def test_missing_tensors_are_refused_by_name() -> None:
    weights = SPECIFIC.group("w::")
    key, _ = weights.popitem()
    with pytest.raises(StageError, match=f"{key}: is missing"):
        state_from_original(SPECIFIC.build_model().state_dict(), weights)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        find_originals(["video.head.weight"], SPECIFIC.group("w::"))
