"""The library against a search through all vectors, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vatt.core.errors import StageError
from vatt.use import library as module
from vatt.use.library import SPACES, Library

WIDTHS = {"video_va": 8, "video_vt": 4, "audio_va": 8}
ORIGIN = {"model": "data/pretrain", "digest": "abc", "length": "None"}


def draw_rows(library: Library, path: str, count: int, seed: int = 0) -> pa.Table:
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        vectors = {name: generator.normal(size=WIDTHS[name]) for name in SPACES}
        row: dict[str, Any] = {
            name: vector / np.linalg.norm(vector) for name, vector in vectors.items()
        }
        times = {"start_s": float(number), "end_s": number + 1.0}
        row["audio_va"] = None if number % 3 == 0 else row["audio_va"]
        rows.append({"path": path, "state": "1", **times, **row})
    return pa.Table.from_pylist(rows, library.schema)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.create(tmp_path / "library", ORIGIN, WIDTHS)


@pytest.mark.parametrize("exact_rows", [100_000, 200])
def test_a_search_finds_what_a_comparison_with_all_finds(
    library: Library, exact_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", exact_rows)
    tables = [draw_rows(library, f"{seed}.mp4", 100, seed) for seed in range(10)]
    for table in tables:
        library.replace([table["path"][0].as_py()], table)
    library.tidy()
    everything = pa.concat_tables(tables).to_pylist()
    generator = np.random.default_rng(99)
    for space in SPACES:
        num_found = 0
        for _ in range(20):
            query = generator.normal(size=WIDTHS[space]).astype(np.float32)
            query /= np.linalg.norm(query)
            known = [row for row in everything if row[space] is not None]
            scores = np.array([row[space] for row in known]) @ query
            best = [known[number] for number in np.argsort(-scores)[:10]]
            found = library.search(space, query, 10)
            expected = {(row["path"], row["start_s"]) for row in best}
            num_found += len(expected & {(one.path, one.start_s) for one in found})
            assert found == sorted(found, key=lambda one: -one.score)
            assert found[0].score == pytest.approx(max(scores), abs=1e-5)
        assert num_found >= (200 if exact_rows == 100_000 else 190)  # recall 1, or 0.95


def test_files_are_replaced_and_removed_whatever_their_names(library: Library) -> None:
    names = ['it\'s "a".mp4', "new\nline.mp4", "100%_\\é.mp4", "😀.mp4"]
    for seed, name in enumerate(names):
        library.replace([name], draw_rows(library, name, 3, seed))
    library.replace(names[:1], draw_rows(library, names[0], 2))
    assert len(library) == 11
    library.replace(names[1:3])
    library.tidy()
    assert library.read_states() == {names[0]: "1", names[3]: "1"}
    assert len(library) == 5


def test_rows_come_back_as_parquet_in_order(library: Library, tmp_path: Path) -> None:
    tables = [draw_rows(library, name, 3, seed) for seed, name in enumerate(["b", "a"])]
    for table in tables:
        library.replace(table["path"].to_pylist(), table)
    library.write_parquet(tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").equals(pa.concat_tables(tables[::-1]))


def test_vectors_of_two_models_do_not_mix(library: Library) -> None:
    for change in ({"digest": "other"}, {"length": "4.0"}):
        with pytest.raises(StageError, match=r"holds vectors of the model data/pretrain"):
            Library.create(library.folder, ORIGIN | change, WIDTHS)
    # The same model at another place is the same.
    Library.create(library.folder, ORIGIN | {"model": "elsewhere"}, WIDTHS)


def test_what_is_no_library_or_of_another_version_is_refused(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StageError, match="is no library: make one with"):
        Library.open(tmp_path / "nothing")
    with pytest.raises(StageError, match="is no library"):
        Library.open(tmp_path)
    assert library.search("video_vt", np.ones(4, np.float32), 3) == []
    monkeypatch.setattr(module, "VERSION", "2")
    with pytest.raises(StageError, match="version 1, not 2"):
        Library.open(library.folder)


def test_a_damaged_library_is_named(library: Library) -> None:
    library.replace(["a"], draw_rows(library, "a", 3))
    for path in library.folder.rglob("*.lance"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.raises(StageError, match=str(library.folder)):
        Library.open(library.folder).search("video_vt", np.ones(4, np.float32), 3)
