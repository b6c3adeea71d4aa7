from pathlib import Path

import pytest

from vatt.data.index import SHARDS_NAME, read_index
from vatt.data.shards import Member, ShardError, read_member
from vatt.params import StageError


@pytest.fixture
def member(corpus_dir: Path, tmp_path: Path) -> Member:
    """A member of a copy of a shard that may be damaged."""
    row = read_index(corpus_dir).query("has_video").iloc[0]
    path = tmp_path / row["shard"]
    path.write_bytes((corpus_dir / SHARDS_NAME / row["shard"]).read_bytes())
    return Member(path, f"{row['key']}.mp4", int(row["video_offset"]), int(row["video_bytes"]))


def check_named(member: Member) -> None:
    with pytest.raises(ShardError) as caught:
        read_member(member)
    for part in (member.shard_path, member.name, member.offset):
        assert str(part) in str(caught.value)


def test_a_member_is_read_by_its_offset(member: Member) -> None:
    assert read_member(member)[4:8] == b"ftyp"


def test_a_missing_shard_is_named(member: Member) -> None:
    Path(member.shard_path).unlink()
    check_named(member)


def test_a_shard_that_is_cut_short_is_named(member: Member) -> None:
    path = Path(member.shard_path)
    content = path.read_bytes()
    path.write_bytes(content[: member.offset + member.num_bytes - 1])
    check_named(member)


def test_a_shard_of_another_index_is_named(member: Member) -> None:
    path = Path(member.shard_path)
    path.write_bytes(b"\0" * 512 + path.read_bytes())
    check_named(member)


def test_a_missing_or_foreign_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"index\.parquet: does not exist; run"):
        read_index(tmp_path)
    (tmp_path / "index.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StageError, match=r"index\.parquet: cannot be read"):
        read_index(tmp_path)
