import dataclasses
import multiprocessing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vatt.data.index import _schema, read_index
from vatt.data.loading.samples import FIELDS, SampleTable
from vatt.params import StageError


def write_index(folder: Path, num_rows: int) -> None:
    """Write an index of two sources whose rows stand mixed, as hashes of names mix them."""
    rng = np.random.default_rng(0)
    values = {
        "key": [f"{number:0{6 + number % 3}d}_é" for number in range(num_rows)],
        "source": rng.choice(["howto", "audio"], num_rows),
        "split": rng.choice(["train", "test"], num_rows, p=[0.8, 0.2]),
        "shard": [f"train-{number // 100:06d}.tar" for number in range(num_rows)],
        "has_video": rng.random(num_rows) < 0.9,
        "has_audio": rng.random(num_rows) < 0.5,
        "num_context_captions": rng.integers(0, 2, num_rows),
        "meta_offset": rng.integers(0, 2**40, num_rows),
    }
    empty = {pa.string(): "", pa.bool_(): False, pa.int64(): 3, pa.float64(): 10.0}
    columns = [values.get(field.name, [empty[field.type]] * num_rows) for field in _schema()]
    arrays = [
        pa.array(column, field.type) for column, field in zip(columns, _schema(), strict=True)
    ]
    pq.write_table(pa.table(arrays, schema=_schema()), folder / "index.parquet")


def test_the_table_holds_the_usable_rows_by_source(tmp_path: Path) -> None:
    write_index(tmp_path, 5000)
    table = SampleTable(tmp_path, tmp_path / "samples")
    index = read_index(tmp_path).query(
        "split == 'train' and has_video and (has_audio or num_context_captions > 0)"
    )
    index = index.sort_values(["source", "key"])
    assert table.sizes == index["source"].value_counts().sort_index().to_dict()
    found = [dataclasses.astuple(table[number]) for number in range(len(table))]
    found = sorted(found[: table.sizes["audio"]]) + sorted(found[table.sizes["audio"] :])
    assert found == list(index[list(FIELDS)].itertuples(index=False, name=None))


def test_a_table_is_written_once_whoever_comes_first(tmp_path: Path) -> None:
    write_index(tmp_path, 30_000)
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        tables = pool.starmap(_read_some, [(tmp_path, number) for number in range(3)])
    assert tables[0] == tables[1] == tables[2]
    (tmp_path / "index.parquet").unlink()  # not read again
    assert _read_some(tmp_path, 0) == tables[0]


def _read_some(folder: Path, _number: int) -> list[tuple[object, ...]]:
    table = SampleTable(folder, folder / "cache" / "samples")
    return [dataclasses.astuple(table[number]) for number in (0, 77, len(table) - 1)]


def test_a_missing_or_foreign_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"index\.parquet: does not exist"):
        SampleTable(tmp_path, tmp_path / "samples")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "index.parquet")
    with pytest.raises(StageError, match=r"index\.parquet: has other columns"):
        SampleTable(tmp_path, tmp_path / "samples")
    assert not (tmp_path / "samples").exists()
