"""Original weights: every tensor has its place; test_import_tf shows that no other is accepted."""

import numpy as np
import pytest

from tests.model.original import Original
from vatt.weights.original import find_originals, state_from_original

SPECIFIC = Original("ms")
WEIGHTS = SPECIFIC.group("w::")
SOURCES = find_originals(SPECIFIC.build_model().state_dict(), WEIGHTS)


def test_every_tensor_has_an_original_of_its_own() -> None:
    assert sorted(key for keys in SOURCES.values() for key in keys) == sorted(WEIGHTS)


def test_keys_and_values_are_fused_in_this_order() -> None:
    name = "video.encoder.blocks.1.attention.key_value.weight"
    key, value = SOURCES[name]
    assert (key[-8:], value[-8:]) == ("k/kernel", "v/kernel")
    pair = {key: WEIGHTS[key], value: WEIGHTS[value]}
    fused = state_from_original([name], pair)[name].numpy()
    np.testing.assert_array_equal(fused[:32], WEIGHTS[key].T)
    np.testing.assert_array_equal(fused[32:], WEIGHTS[value].T)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        find_originals(["video.head.weight"], WEIGHTS)
