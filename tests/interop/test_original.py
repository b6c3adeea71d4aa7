"""Original weights: every tensor has its place, and none is left over or missing."""

import pytest

from tests.models.original import build_model, group
from vatt.interop.original import original_keys, state_from_original
from vatt.params import StageError


def test_every_tensor_has_an_original_of_its_own() -> None:
    keys = [key for name in build_model().state_dict() for key in original_keys(name)]
    assert sorted(keys) == sorted(group("w::"))


def test_left_over_tensors_are_refused_by_name() -> None:
    weights = {**group("w::"), "model/extra/kernel": group("w::").popitem()[1]}
    with pytest.raises(StageError, match="model/extra/kernel: has no place"):
        state_from_original(build_model().state_dict(), weights)


def test_missing_tensors_are_refused_by_name() -> None:
    weights = group("w::")
    key, _ = weights.popitem()
    with pytest.raises(StageError, match=f"{key}: is missing"):
        state_from_original(build_model().state_dict(), weights)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        original_keys("video.head.weight")
