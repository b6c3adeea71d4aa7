"""Shards: WebDataset-compatible tar files whose members are also read at random, by offset."""

import dataclasses
import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vatt.data.segment import Segment
from vatt.params import StageError

HEADER_BYTES = 512
END_OF_ARCHIVE = bytes(2 * 512)
SUFFIXES = {"video": ".mp4", "audio": ".flac", "meta": ".json"}
"""Kind of a member to the end of its name, in the order in which they stand."""


class ShardError(StageError):
    """A member of a shard cannot be read; the message names the shard, the member and the offset."""


@dataclasses.dataclass(frozen=True)
class Member:
    """Where the content of a member is."""

    shard_path: Path | str
    """Or its address."""
    name: str
    offset: int
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.shard_path}: {self.name} at byte {self.offset}"


def write_members(file: BinaryIO, key: str, contents: Mapping[str, bytes]) -> dict[str, Any]:
    """Append the members of a segment (kind to content) to a file.

    Returns their places and the digest of all contents, as the fields `<kind>_offset`,
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
        self._counts: dict[str, int] = {}

    def extend(self, segments: Iterable[Segment], fragment_path: Path) -> Iterator[Segment]:
        """Copy segments from a file of members; yields them with their new places."""
        for segment in segments:
            present = [kind for kind in SUFFIXES if getattr(segment, f"{kind}_bytes")]
            begin = min(getattr(segment, f"{kind}_offset") for kind in present) - HEADER_BYTES
            end = segment.meta_offset + segment.meta_bytes + -segment.meta_bytes % HEADER_BYTES
            with fragment_path.open("rb") as fragment:
                fragment.seek(begin)
                name, offset = self._append(segment.split, fragment.read(end - begin))
            moved = {
                f"{kind}_offset": getattr(segment, f"{kind}_offset") + offset - begin
                for kind in present
            }
            yield dataclasses.replace(segment, shard=name, **moved)

    def _append(self, split: str, members: bytes) -> tuple[str, int]:
        """Append the members of one segment to a shard; returns its name and where they begin."""
        number, place = divmod(self._counts.get(split, 0), self._segments_per_shard)
        self._counts[split] = self._counts.get(split, 0) + 1
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
