import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vatt.corpus.index import Segment
from vatt.preprocess.fragments import FragmentStore, Outcome

MEMBERS = bytes(range(256)) * 8
KEY = "0123456789abcdef"


def make_outcome() -> Outcome:
    """A segment with values of all types, as measured: numpy's numbers, NaN, odd characters."""
    values: dict[Any, Any] = {
        str: 'x "ü" \ud800',
        int: 7,
        float: math.nan,
        bool: True,
        str | None: None,
    }
    row = {field.name: values[field.type] for field in dataclasses.fields(Segment)}
    row |= {"num_frames": np.int64(5), "black_rate": np.float32(0.5), "start_s": 0.1 + 0.2}
    return Outcome([Segment(**row)], ["one", "two\n"])


@pytest.fixture
def store(tmp_path: Path) -> FragmentStore:
    store = FragmentStore(tmp_path)
    (tmp_path / "new").write_bytes(MEMBERS)
    store.add(KEY, tmp_path / "new", make_outcome())
    return store


def test_an_outcome_comes_back_as_it_was(store: FragmentStore) -> None:
    outcome = store.read(KEY)
    assert outcome is not None
    assert repr(outcome.segments) == repr(make_outcome().segments).replace(
        "np.int64(5)", "5"
    ).replace("np.float32(0.5)", "0.5")
    assert outcome.texts == ["one", "two\n"]
    assert outcome.reason is None
    assert store.path_of(KEY).read_bytes().startswith(MEMBERS)


def test_a_quarantined_file_leaves_no_members(store: FragmentStore, tmp_path: Path) -> None:
    (tmp_path / "half").write_bytes(MEMBERS)
    for key, name in (("ab", "half"), ("cd", "missing")):
        store.add(key, tmp_path / name, Outcome([], [], "broken"))
        assert store.read(key) == Outcome([], [], "broken")
    assert store.path_of("ab").stat().st_size < len(MEMBERS)


def test_every_damage_is_noticed(store: FragmentStore) -> None:
    path = store.path_of(KEY)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [0, len(MEMBERS), *range(len(good) - 26, len(good)), *rng.integers(len(good), size=50)]
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert store.read(KEY) is None
    for length in [0, 5, 16, 24, 25, len(MEMBERS), len(good) - 1]:
        path.write_bytes(good[:length])
        assert store.read(KEY) is None
    path.write_bytes(good + b"\0")
    assert store.read(KEY) is None
    path.write_bytes(good)
    assert store.read(KEY) is not None


def test_an_entry_under_another_key_is_damaged(store: FragmentStore) -> None:
    other = "01" + "0" * 14
    store.path_of(KEY).rename(store.path_of(other))
    assert store.read(other) is None


def test_what_is_not_used_is_removed(store: FragmentStore, tmp_path: Path) -> None:
    store.add("ff", tmp_path / "new", Outcome([], [], "broken"))
    (store.partial_dir / "x").mkdir(parents=True)
    store.remove_all_but({"ff"})
    assert store.read(KEY) is None
    assert store.read("ff") is not None
    assert not store.partial_dir.exists()
