"""Small checkpoints in the layout of TensorFlow, sound ones and odd ones, to test the reader."""

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19}
STRING = 7


class Oddities(NamedTuple):
    """What can be unusual about a checkpoint."""

    num_shards: int = 1
    pairs_per_block: int = 5
    block_kind: int = 0
    endianness: int = 0
    min_consumer: int = 0
    sliced: str = ""
    """The tensor that is marked as stored in slices."""
    wrong_shape: str = ""
    """The tensor whose entry claims one number too many."""
    wrong_shard: str = ""


PLAIN = Oddities()


def write_checkpoint(
    prefix: Path, tensors: Mapping[str, np.ndarray | bytes], odd: Oddities = PLAIN
) -> None:
    """Write `tensors` to the shards in turn; bytes are text."""
    shards = [bytearray() for _ in range(odd.num_shards)]
    header = _number(1, odd.num_shards) + _number(2, odd.endianness)
    table = {b"": header + _message(3, _number(1, 1) + _number(2, odd.min_consumer))}
    for index, name in enumerate(sorted(tensors)):
        value = tensors[name]
        shard = index % odd.num_shards
        content = value if isinstance(value, bytes) else value.tobytes()
        dtype = STRING if isinstance(value, bytes) else DTYPES[value.dtype.name]
        shape = () if isinstance(value, bytes) else value.shape
        if name == odd.wrong_shape:
            shape = (*shape, 2)
        table[name.encode()] = (
            _number(1, dtype)
            + _message(2, b"".join(_message(2, _number(1, size)) for size in shape))
            + _number(3, shard + (odd.num_shards if name == odd.wrong_shard else 0))
            + _number(4, len(shards[shard]))
            + _number(5, len(content))
            + bytes([6 << 3 | 5])
            + _mask(google_crc32c.value(content))
            + (_message(7, b"") if name == odd.sliced else b"")
        )
        shards[shard] += content
    for shard, data in enumerate(shards):
        Path(f"{prefix}.data-{shard:05d}-of-{odd.num_shards:05d}").write_bytes(data)
    Path(f"{prefix}.index").write_bytes(_table(table, odd))


def _table(table: Mapping[bytes, bytes], odd: Oddities) -> bytes:
    content, index = b"", {}
    names = sorted(table)
    for start in range(0, len(names), odd.pairs_per_block):
        chosen = names[start : start + odd.pairs_per_block]
        block = _block({name: table[name] for name in chosen}, odd.block_kind)
        index[chosen[-1]] = _varint(len(content)) + _varint(len(block) - 5)
        content += block
    handles = b""
    for block in (_block({}, 0), _block(index, 0)):
        handles += _varint(len(content)) + _varint(len(block) - 5)
        content += block
    return content + handles.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


def _block(pairs: Mapping[bytes, bytes], kind: int) -> bytes:
    """Return a block that writes every third name whole, the others without what they share."""
    block, restarts, last = b"", [], b""
    for index, (name, value) in enumerate(pairs.items()):
        same = takewhile(lambda pair: pair[0] == pair[1], zip(name, last, strict=False))
        shared = len(list(same)) if index % 3 else 0
        if index % 3 == 0:
            restarts.append(len(block))
        block += _varint(shared) + _varint(len(name) - shared) + _varint(len(value))
        block += name[shared:] + value
        last = name
    places = b"".join(place.to_bytes(4, "little") for place in restarts or [0])
    block += places + max(1, len(restarts)).to_bytes(4, "little") + bytes([kind])
    return block + _mask(google_crc32c.value(block))


def _mask(checksum: int) -> bytes:
    rotated = (checksum >> 15 | checksum << 17) + 0xA282EAD8
    return (rotated & 0xFFFFFFFF).to_bytes(4, "little")


def _varint(value: int) -> bytes:
    low = []
    while value > 127:
        low.append(value & 127 | 128)
        value >>= 7
    return bytes([*low, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
