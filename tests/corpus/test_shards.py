from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vatt.core.errors import StageError
from vatt.corpus.index import SHARDS_NAME, read_index
from vatt.corpus.shards import HEADER_BYTES, Member, ShardError, cut_member


@pytest.fixture
def member(corpus_dir: Path) -> Member:
    row = read_index(corpus_dir).query("has_video").iloc[0]
    path = corpus_dir / SHARDS_NAME / row["shard"]
    return Member(path, f"{row['key']}.mp4", int(row["video_offset"]), int(row["video_bytes"]))


def test_a_member_is_cut_out_by_its_offset(member: Member) -> None:
    content = Path(member.shard_path).read_bytes()
    whole = cut_member(content, 0, member)
    assert whole[4:8] == b"ftyp"
    assert len(whole) == member.num_bytes
    begin = member.offset - HEADER_BYTES
    assert cut_member(content[begin:], begin, member) == whole


def test_a_shard_that_is_cut_short_or_of_another_index_is_named(member: Member) -> None:
    content = Path(member.shard_path).read_bytes()
    short = content[: member.offset + member.num_bytes - 1]
    for wrong in (short, b"", bytes(512) + content, content[1:]):
        with pytest.raises(ShardError) as caught:
            cut_member(wrong, 0, member)
        for part in (member.shard_path, member.name, member.offset):
            assert str(part) in str(caught.value)


def test_a_missing_or_foreign_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"index\.parquet: does not exist; run"):
        read_index(tmp_path)
    (tmp_path / "index.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StageError, match=r"index\.parquet: cannot be read"):
        read_index(tmp_path)
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "index.parquet")
    with pytest.raises(StageError, match=r"index\.parquet: has other columns"):
        read_index(tmp_path)


def test_a_split_and_some_columns_can_be_read_alone(corpus_dir: Path) -> None:
    index = read_index(corpus_dir)
    held_out = read_index(corpus_dir, split="test")
    expected = index[index["split"] == "test"].reset_index(drop=True)
    pd.testing.assert_frame_equal(held_out, expected)
    rates = read_index(corpus_dir, columns=["frame_rate_hz"])
    pd.testing.assert_frame_equal(rates, index[["frame_rate_hz"]])
    assert len(read_index(corpus_dir, split="validation")) == 0
