"""Checkpoints that TensorFlow wrote, and damaged ones: the right numbers, or a refusal."""

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.original import REFERENCE_DIR, Original
from tests.weights.bundle_writer import Oddities, write_checkpoint
from vatt.core.errors import StageError
from vatt.weights.tensor_bundle import TensorBundle

CHECKPOINTS = REFERENCE_DIR / "checkpoints"
SHARD = "cls_vit.data-00000-of-00001"
FUNCTION_SCOPED = HealthCheck.function_scoped_fixture
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
TENSORS: dict[str, np.ndarray] = {
    "a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a/kernel_of_another": np.array([-1.5, np.inf, np.nan], np.float64),
    "a/longer/name": np.array(7, np.int64),
    "b": np.array([[[True]], [[False]]]),
    "c/empty": np.zeros((0, 5), np.float32),
    "c/half": np.linspace(-1, 1, 9, dtype=np.float16),
    "d/int": np.array([-(2**31), 2**31 - 1], np.int32),
    "é": np.array([0, 255], np.uint8),
}


def copy_checkpoint(name: str, folder: Path) -> Path:
    for file in CHECKPOINTS.glob(f"{name}.*"):
        shutil.copyfile(file, folder / file.name)
    return folder / name


def read_all(prefix: Path) -> dict[str, np.ndarray]:
    bundle = TensorBundle(prefix)
    return {name: bundle[name] for name in bundle if name != GRAPH}


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["ms", "ma", "cls_vit", "cls_wat", "cls_spt"])
def test_tensors_of_original_checkpoints_bit_for_bit(name: str) -> None:
    bundle = TensorBundle(CHECKPOINTS / name)
    weights = Original(name).group("w::")
    assert set(bundle) == {*weights, GRAPH}
    for key, expected in weights.items():
        assert_same(bundle[key], expected)
        assert bundle.entries[key].shape == expected.shape


def test_what_is_no_array_or_no_checkpoint_is_said(tmp_path: Path) -> None:
    bundle = TensorBundle(CHECKPOINTS / "ma")
    assert bundle.entries[GRAPH].dtype == object
    with pytest.raises(StageError, match=f"ma.index: {GRAPH} is no array of numbers"):
        bundle[GRAPH]
    with pytest.raises(KeyError):
        bundle["nothing"]
    for name in ("ckpt-10", "ckpt-500000"):
        write_checkpoint(tmp_path / name, TENSORS)
    for path in (tmp_path, tmp_path / "ckpt-20"):
        with pytest.raises(StageError, match=r"checkpoints there are .*ckpt-10, .*ckpt-500000"):
            TensorBundle(path)


@pytest.mark.parametrize("num_shards", [1, 3, 20])
@pytest.mark.parametrize("pairs_per_block", [1, 4, 100])
def test_all_types_in_shards_and_blocks(
    tmp_path: Path, num_shards: int, pairs_per_block: int
) -> None:
    write_checkpoint(tmp_path / "x", TENSORS, Oddities(num_shards, pairs_per_block))
    bundle = TensorBundle(tmp_path / "x.index")
    assert set(bundle) == set(TENSORS)
    for name, expected in TENSORS.items():
        assert_same(bundle[name], expected)


def test_one_tensor_is_read_without_the_others(tmp_path: Path) -> None:
    tensors = {"large": np.zeros(5_000_000, np.float32), "small": np.ones(3, np.float32)}
    write_checkpoint(tmp_path / "x", tensors)
    tracemalloc.start()
    try:
        assert_same(TensorBundle(tmp_path / "x")["small"], tensors["small"])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def cut(path: Path, place: int = -1) -> None:
    path.write_bytes(path.read_bytes()[:place])


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << (place % 8)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("cls_vit.index", Path.unlink, r"cls_vit.index is missing; none is there"),
        ("cls_vit.index", cut, "cls_vit.index: is no index of a checkpoint, or is cut off"),
        ("cls_vit.index", lambda path: path.write_bytes(b""), "cls_vit.index: is no index"),
        ("cls_vit.index", lambda path: path.write_bytes(b"\x93NUMPY" * 99), "is no index"),
        ("cls_vit.index", lambda path: flip(path, 50), "index: is damaged: the checksum of the"),
        (SHARD, Path.unlink, "data-00000-of-00001: is missing"),
        (SHARD, cut, "of-00001: is cut off: .* ends at byte 93457"),
        (SHARD, lambda path: flip(path, 40000), "/kernel.* is damaged: its checksum"),
    ],
)
def test_damaged_files_are_refused_by_name(
    tmp_path: Path, file: str, damage: Callable[[Path], object], message: str
) -> None:
    prefix = copy_checkpoint("cls_vit", tmp_path)
    damage(tmp_path / file)
    with pytest.raises(StageError, match=message):
        read_all(prefix)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (Oddities(block_kind=1), "x.index: is compressed .Snappy, kind 1"),
        (Oddities(endianness=1), "x.index: was written on a big-endian machine"),
        (Oddities(min_consumer=2), "x.index: has a newer format, of version 2"),
        (Oddities(num_shards=0), "x.index: is no index of a checkpoint: it has no header"),
        (Oddities(sliced="a/kernel"), "x.index: a/kernel is stored in slices"),
        (Oddities(wrong_shape="a/kernel"), r"a/kernel is damaged: float32 .3, 4, 2. in 48 bytes"),
        (Oddities(wrong_shard="a/kernel"), "a/kernel is damaged: it lies in shard 1 of 1"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, odd: Oddities, message: str) -> None:
    write_checkpoint(tmp_path / "x", TENSORS if odd.num_shards else {}, odd)
    with pytest.raises(StageError, match=message):
        TensorBundle(tmp_path / "x")["a/kernel"]


def assert_right_or_refused(prefix: Path, expected: dict[str, np.ndarray]) -> None:
    try:
        found = read_all(prefix)
    except StageError:
        return
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert_same(value, expected[name])


def damage_at_random(data: st.DataObject, content: bytes) -> bytes:
    """Some bits flipped, then some bytes cut out, as bad disks and broken downloads do."""
    damaged = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    start, length = data.draw(st.tuples(st.integers(0, len(content)), st.integers(0, 200)))
    if data.draw(st.booleans()):
        del damaged[start : start + length]
    return bytes(damaged)


@pytest.mark.parametrize("file", ["x.index", "x.data-00000-of-00002", "x.data-00001-of-00002"])
@settings(max_examples=150, deadline=None, suppress_health_check=[FUNCTION_SCOPED])
@given(data=st.data())
def test_random_damage_does_no_harm(tmp_path: Path, file: str, data: st.DataObject) -> None:
    write_checkpoint(tmp_path / "x", TENSORS, Oddities(num_shards=2))
    path = tmp_path / file
    path.write_bytes(damage_at_random(data, path.read_bytes()))
    assert_right_or_refused(tmp_path / "x", TENSORS)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, cut])
def test_every_byte_of_an_index(tmp_path: Path, damage: Callable[[Path, int], object]) -> None:
    prefix = copy_checkpoint("cls_spt", tmp_path)
    index, weights = tmp_path / "cls_spt.index", Original("cls_spt").group("w::")
    content = index.read_bytes()
    for place in range(len(content)):
        index.write_bytes(content)
        damage(index, place)
        assert_right_or_refused(prefix, weights)
