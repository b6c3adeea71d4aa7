import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vatt.core.errors import StageError
from vatt.corpus.index import make_schema, read_index
from vatt.corpus.samples import FIELDS, SampleTable, write_samples


def write_corpus(folder: Path, num_rows: int) -> None:
    """Write an index of two sources, mixed as hashes of names mix them, and its samples."""
    folder.mkdir(exist_ok=True)
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
    columns = [values.get(field.name, [empty[field.type]] * num_rows) for field in make_schema()]
    arrays = [
        pa.array(column, field.type) for column, field in zip(columns, make_schema(), strict=True)
    ]
    pq.write_table(pa.table(arrays, schema=make_schema()), folder / "index.parquet")
    write_samples(folder)


def test_the_table_holds_the_usable_rows_by_source(tmp_path: Path) -> None:
    write_corpus(tmp_path, 5000)
    table = SampleTable(tmp_path)
    index = read_index(tmp_path).query(
        "split == 'train' and has_video and (has_audio or num_context_captions > 0)"
    )
    index = index.sort_values("source", kind="stable")
    assert table.sizes == index["source"].value_counts().sort_index().to_dict()
    found = [dataclasses.astuple(table[number]) for number in range(len(table))]
    assert found == list(index[list(FIELDS)].itertuples(index=False, name=None))


def test_the_table_is_the_same_bytes_however_many_rows_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path, 3000)
    expected = (tmp_path / "samples.bin").read_bytes()
    monkeypatch.setattr("vatt.corpus.samples.ROWS_AT_ONCE", 7)
    write_samples(tmp_path)
    assert (tmp_path / "samples.bin").read_bytes() == expected


def test_training_opens_the_table_alone(tmp_path: Path) -> None:
    write_corpus(tmp_path, 300)
    expected = SampleTable(tmp_path)[17]
    (tmp_path / "index.parquet").unlink()
    assert SampleTable(tmp_path)[17] == expected


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no\n", b"[1]\n", b"{}\n", b'{"fields": ["key"]}\n'),
        *(slice(None, -1), slice(None, 500), slice(100, None)),
        None,
    ],
)
def test_a_missing_foreign_or_damaged_table_is_named(
    tmp_path: Path, content: bytes | slice | None
) -> None:
    write_corpus(tmp_path, 300)
    path = tmp_path / "samples.bin"
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[content] if isinstance(content, slice) else content)
    with pytest.raises(StageError, match=r"samples\.bin: cannot be read: .*; run .* again"):
        SampleTable(tmp_path)


def test_opening_takes_no_more_for_a_larger_table(tmp_path: Path) -> None:
    sizes = []
    for num_rows in (300, 30_000):
        write_corpus(tmp_path / str(num_rows), num_rows)
        tracemalloc.start()
        table = SampleTable(tmp_path / str(num_rows))
        table[len(table) - 1]
        sizes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert sizes[1] < sizes[0] + 10_000
