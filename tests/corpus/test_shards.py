import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vatt.core.errors import StageError
from vatt.corpus import shards as shards_module
from vatt.corpus.index import SHARDS_NAME, read_index
from vatt.corpus.shards import (
    HEADER_BYTES,
    LocalShards,
    Member,
    RangeCache,
    RemoteShards,
    ShardError,
    UnreadableError,
    cut_member,
)


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


CONTENT = np.random.default_rng(0).bytes(300_000)
MIB = 2**20


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any name; the name says how it misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.closing = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.asked[name] += 1
        if name == "stalls.tar":
            self.server.closing.wait(20)
            return
        if name == "gone.tar" or (name == "shaky.tar" and self.server.asked[name] < 3):
            self.send_error(404 if name == "gone.tar" else 503)
            return
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        body = CONTENT if name == "whole.tar" else CONTENT[int(first) : int(last) + 1]
        self.send_response(200 if name == "whole.tar" else 206)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


@pytest.fixture
def remote(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteShards:
    monkeypatch.setattr(shards_module, "FIRST_PAUSE_S", 0.01)
    url, cache = f"http://127.0.0.1:{server.server_port}/shards/", RangeCache(tmp_path, 64 * MIB)
    return RemoteShards(url, cache, timeout_s=0.5)


def test_a_range_is_fetched_once(remote: RemoteShards, server: Server) -> None:
    for _ in range(2):
        assert remote.read("train-000000.tar", 1000, 5000) == CONTENT[1000:5000]
    assert remote.read("train-000000.tar", 1000, 5001) == CONTENT[1000:5001]
    assert server.asked["train-000000.tar"] == 2


def test_the_end_of_a_local_shard_ends_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    assert LocalShards(tmp_path).read("a.tar", 299_000, 301_000) == CONTENT[299_000:]


def test_half_a_shard_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "FIRST_PAUSE_S", 0.001)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/half/a.tar", CONTENT[:200])
    shards = RemoteShards("memory://half", RangeCache(tmp_path, 64 * MIB))
    with pytest.raises(UnreadableError, match="193 of 293 bytes came"):
        shards.read("a.tar", 7, 300)
    memory.pipe_file("/half/a.tar", CONTENT)  # the upload has ended
    assert shards.read("a.tar", 7, 300) == CONTENT[7:300]


def test_the_shards_of_another_corpus_take_the_place_of_those_kept(tmp_path: Path) -> None:
    memory, cache = fsspec.filesystem("memory"), RangeCache(tmp_path, 64 * MIB)
    for version, content in (("old", CONTENT), ("new", CONTENT[::-1])):
        memory.pipe_file("/replaced/a.tar", content)
        shards = RemoteShards("memory://replaced", cache, version)
        assert shards.read("a.tar", 7, 300) == content[7:300]


def test_a_server_without_ranges_or_that_recovers_will_do(
    remote: RemoteShards, server: Server
) -> None:
    assert remote.read("whole.tar", 1000, 5000) == CONTENT[1000:5000]
    assert remote.read("shaky.tar", 0, 10) == CONTENT[:10]
    assert server.asked["shaky.tar"] == 3


@pytest.mark.parametrize("name", ["gone.tar", "stalls.tar"])
def test_a_server_that_fails_is_given_up(remote: RemoteShards, server: Server, name: str) -> None:
    begin_s = time.monotonic()
    with pytest.raises(UnreadableError, match="cannot be read after 4 tries: "):
        remote.read(name, 0, 10)
    assert time.monotonic() - begin_s < 15
    assert server.asked[name] == 4


def test_an_unknown_kind_of_address_is_refused_at_once(tmp_path: Path) -> None:
    shards = RemoteShards("nosuch://there", RangeCache(tmp_path, MIB))
    with pytest.raises(UnreadableError, match="nosuch"):
        shards.read("a.tar", 0, 1)


def fill(folder: Path, first: int, num_items: int) -> None:
    cache = RangeCache(folder, 64 * 10_000)
    for number in range(first, first + num_items):
        content = bytes([number % 256]) * (1000 + number % 1500)
        assert cache.read(str(number), lambda content=content: content) == content  # type: ignore[misc]


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_cache_stays_within_its_bytes_whoever_writes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(tmp_path, first, 600)) for first in (0, 0, 400)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        try:
            assert count_bytes(tmp_path) <= 64 * 10_000
        except FileNotFoundError:
            continue  # removed between listing and asking
    assert all(process.exitcode == 0 for process in processes)
    assert 64 * 6_000 < count_bytes(tmp_path) <= 64 * 10_000


def test_what_was_used_last_stays_and_what_killed_processes_left_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "NUM_PARTS", 1)
    cache = RangeCache(tmp_path, 3000)

    def put(name: str) -> bool:
        """Whether it had to be fetched."""
        fetched = []
        cache.read(name, lambda: fetched.append(1) or bytes(1000))  # type: ignore[func-returns-value]
        time.sleep(0.01)
        return bool(fetched)

    assert [put(name) for name in ("a", "b", "a", "c", "a")] == [True, True, False, True, False]
    assert put("d")
    assert [put(name) for name in ("a", "c", "d")] == [False, False, False]
    assert put("b")
    left = tmp_path / "00" / "killed.partial"
    left.write_bytes(bytes(2500))
    os.utime(left, (0, 0))
    assert put("e")
    assert not left.exists()
    assert count_bytes(tmp_path) <= 3000


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    assert RangeCache(tmp_path, 64 * 100).read("a", lambda: bytes(101)) == bytes(101)
    assert count_bytes(tmp_path) == 0
