"""Shards: WebDataset-compatible tar files whose members are also read at random, by offset.

They lie in a folder, or at any address that fsspec knows, behind a bounded local cache.
"""

import dataclasses
import hashlib
import json
import os
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from vatt.core.errors import StageError, backoff_s
from vatt.core.files import atomic_path, hold_lock
from vatt.corpus.index import Segment

HEADER_BYTES = 512
END_OF_ARCHIVE = bytes(2 * HEADER_BYTES)
SUFFIXES = {"video": ".mp4", "audio": ".flac", "meta": ".json"}
"""The end of the name of each kind of member, in the order in which they stand."""
TRIES = 4
FIRST_PAUSE_S = 0.5
TIMEOUT_S = 30.0
NUM_PARTS = 64
"""How many folders the cache has, each with a lock of its own."""


class ShardError(StageError):
    """A member of a shard cannot be read; the message names the shard, the member, the offset."""


@dataclasses.dataclass(frozen=True)
class Member:
    """Where the content of a member is."""

    shard_path: Path | str
    """The path of the shard, or its address."""
    name: str
    offset: int
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.shard_path}: {self.name} at byte {self.offset}"


def write_members(file: BinaryIO, key: str, contents: Mapping[str, bytes]) -> dict[str, Any]:
    """Append the members of a segment (kind to content) to a file.

    Return their places and the digest of all contents, as the fields `<kind>_offset`,
    `<kind>_bytes` and `digest` of `Segment`. The headers hold no time and no owner, so that the
    same contents are the same bytes.
    """
    places: dict[str, Any] = {}
    digest = hashlib.blake2b(digest_size=16)
    for kind, content in contents.items():
        header = tarfile.TarInfo(key + SUFFIXES[kind])
        header.size = len(content)
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        places[f"{kind}_offset"] = file.tell()
        places[f"{kind}_bytes"] = len(content)
        digest.update(content)
        file.write(content)
        file.write(bytes(-len(content) % HEADER_BYTES))
    return places | {"digest": digest.hexdigest()}


class ShardWriter:
    """Gathers segments into shards of one split each: train-000000.tar, train-000001.tar, ..."""

    def __init__(self, shards_dir: Path, segments_per_shard: int) -> None:
        shards_dir.mkdir()
        self._shards_dir = shards_dir
        self._segments_per_shard = segments_per_shard
        self._counts: Counter[str] = Counter()

    def extend(self, segments: Iterable[Segment], fragment_path: Path) -> Iterator[Segment]:
        """Copy segments from a file of members, whose meta members get the labels of the rows.

        Yield the segments with their new places and digests.
        """
        for segment in segments:
            contents = {}
            with fragment_path.open("rb") as fragment:
                for kind in SUFFIXES:
                    if num_bytes := getattr(segment, f"{kind}_bytes"):
                        fragment.seek(getattr(segment, f"{kind}_offset"))
                        contents[kind] = fragment.read(num_bytes)
            meta = json.loads(contents["meta"]) | {
                "labels": json.loads(segment.labels),
                "descriptions": json.loads(segment.descriptions),
            }
            contents["meta"] = json.dumps(meta, sort_keys=True, ensure_ascii=False).encode()
            members = BytesIO()
            places = write_members(members, segment.key, contents)
            name, offset = self._append(segment.split, members.getvalue())
            for kind in contents:
                places[f"{kind}_offset"] += offset
            yield dataclasses.replace(segment, shard=name, **places)

    def _append(self, split: str, members: bytes) -> tuple[str, int]:
        """Append the members of one segment to a shard; return its name and where they begin."""
        number, place = divmod(self._counts[split], self._segments_per_shard)
        self._counts[split] += 1
        name = f"{split}-{number:06d}.tar"
        with (self._shards_dir / name).open("r+b" if place else "xb") as shard:
            # The end mark is overwritten by the next segment.
            offset = shard.seek(-len(END_OF_ARCHIVE) if place else 0, os.SEEK_END)
            shard.write(members + END_OF_ARCHIVE)
        return name, offset


def cut_member(content: bytes, begin: int, member: Member) -> bytes:
    """Cut a member out of bytes of its shard that start at `begin`.

    Raises:
        ShardError: they end too early, or something else stands there.
    """
    start = member.offset - HEADER_BYTES - begin
    found = content[max(0, start) : start + HEADER_BYTES + member.num_bytes]
    name = found[: len(member.name) + 1]
    if len(found) < HEADER_BYTES + member.num_bytes or name != member.name.encode() + b"\0":
        raise ShardError(f"{member}: is not there; the shard is damaged or not that of the index")
    return found[HEADER_BYTES:]


class UnreadableError(Exception):
    """A shard cannot be read; the message is the reason, without its name."""


class LocalShards:
    """Shards of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def locate(self, shard: str) -> str:
        """Return the path of a shard."""
        return str(self._folder / shard)

    def read(self, shard: str, begin: int, end: int) -> bytes:
        """Return the bytes of a shard from `begin` to before `end`, fewer if it ends before.

        Raises:
            UnreadableError: the shard is missing or cannot be read.
        """
        try:
            with (self._folder / shard).open("rb", buffering=0) as file:
                return os.pread(file.fileno(), end - begin, begin)
        except (OSError, OverflowError, ValueError) as error:
            raise UnreadableError(f"cannot be read: {error}") from error


class RemoteShards:
    """Shards at an address, read range by range: random samples need little of each shard."""

    def __init__(
        self, url: str, cache: "RangeCache", version: str = "", timeout_s: float = TIMEOUT_S
    ) -> None:
        """Open shards at an address; `version` differs for another corpus at the same address."""
        self._url = url.rstrip("/")
        self._cache, self._version, self._timeout_s = cache, version, timeout_s
        self._opened: tuple[int, Any] | None = None

    def locate(self, shard: str) -> str:
        """Return the address of a shard."""
        return f"{self._url}/{shard}"

    def read(self, shard: str, begin: int, end: int) -> bytes:
        """Return the bytes of a shard from `begin` to before `end`.

        Raises:
            UnreadableError: not all of them came after several tries.
        """
        address = self.locate(shard)
        name = f"{address}:{begin}-{end}:{self._version}"
        return self._cache.read(name, lambda: self._fetch(address, begin, end))

    def _fetch(self, address: str, begin: int, end: int) -> bytes:
        problem: object = None
        for attempt in range(1, TRIES + 1):
            if attempt > 1:
                time.sleep(backoff_s(FIRST_PAUSE_S, attempt - 1))
            try:
                content: bytes = self._files().cat_file(address, start=begin, end=end)
            except (ImportError, ValueError) as error:
                raise UnreadableError(f"cannot be read: {error!r}") from error
            except Exception as error:  # noqa: BLE001 - every kind of storage raises its own errors
                problem = error
                continue
            if len(content) > end - begin:  # a server that knows no ranges sends the whole file
                content = content[begin:end]
            if len(content) == end - begin:
                return content
            # Half of it is there: that must not be kept.
            problem = OSError(f"{len(content)} of {end - begin} bytes came")
        raise UnreadableError(f"cannot be read after {TRIES} tries: {problem!r}")

    def _files(self) -> Any:
        """Return the storage, opened in this process: its connections do not survive a fork."""
        if self._opened is not None and self._opened[0] == os.getpid():
            return self._opened[1]
        options: dict[str, Any] = {}
        if self._url.startswith(("http:", "https:")):
            import aiohttp

            timeout = aiohttp.ClientTimeout(
                total=None, connect=self._timeout_s, sock_read=self._timeout_s
            )
            options = {"client_kwargs": {"timeout": timeout}, "skip_instance_cache": True}
        files, _ = fsspec.core.url_to_fs(self._url, **options)
        self._opened = os.getpid(), files
        return files


class RangeCache:
    """Files of a local folder that hold at most `max_bytes`; those longest unused go first.

    Any number of processes may share it, and may be killed. It is cut into parts by the hash of the
    name, each with its lock and its part of the bytes, so that nobody has to know all files.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._part_bytes = max_bytes // NUM_PARTS

    def read(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        """Return what is stored under a name, else fetch and store it."""
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        path = self._folder / f"{digest[0] % NUM_PARTS:02d}" / digest.hex()
        try:
            content = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            content = fetch()
            if len(content) <= self._part_bytes:
                self._store(path, content)
        return content

    def _store(self, path: Path, content: bytes) -> None:
        """Write a file after removing those longest unused, until all fit in its part."""
        try:
            with hold_lock(path.parent / "lock"):
                # What killed processes left counts, too.
                files = [(f.stat(), f) for f in path.parent.iterdir() if f.name != "lock"]
                excess = sum(stat.st_size for stat, _ in files) + len(content) - self._part_bytes
                for stat, file in sorted(files, key=lambda pair: pair[0].st_mtime_ns):
                    if excess <= 0:
                        break
                    file.unlink()
                    excess -= stat.st_size
                with atomic_path(path) as partial:
                    partial.write_bytes(content)
        except OSError as error:
            raise StageError(f"{self._folder}: shards cannot be kept here: {error}") from error


Shards = LocalShards | RemoteShards
