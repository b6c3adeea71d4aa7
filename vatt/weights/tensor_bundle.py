"""The tensors of a TensorFlow 2 checkpoint, read without TensorFlow.

A checkpoint X is X.index, a sorted table of names (`vatt.weights.tensor_bundle`), and its shards
X.data-00000-of-00001 and so on, which hold the bytes of the tensors.

Sorted tables of names and values on disk (the SSTable of LevelDB), and the messages in them.

A table is a row of blocks and a footer. The footer points at the index block, the index block at
the data blocks. Each block ends in a type and a checksum. In a block a name is written without
what it shares with the one before.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from vatt.core.errors import StageError

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER_BYTES = 5
_UNCOMPRESSED = 0
_CHECKSUM_MASK = 0xA282EAD8


def read_sorted_table(path: Path) -> dict[bytes, bytes]:
    """Read all names and values of a table.

    Raises:
        StageError: the file cannot be read, is no table, is compressed or damaged.
    """
    try:
        return _read_table(path.read_bytes())
    except OSError as error:
        raise StageError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise StageError(f"{path}: {error}") from error


def read_fields(message: bytes) -> dict[int, list[int | bytes]]:
    """Return the values of a protocol buffer message by the numbers of its fields.

    Raises:
        ValueError: it is no such message.
    """
    fields: dict[int, list[int | bytes]] = {}
    place = 0
    while place < len(message):
        tag, place = _read_varint(message, place)
        value: int | bytes
        match tag & 7:
            case 0:
                value, place = _read_varint(message, place)
            case 2:
                length, place = _read_varint(message, place)
                value, place = _take(message, place, length), place + length
            case 1 | 5 as kind:
                length = 8 if kind == 1 else 4
                value, place = (
                    int.from_bytes(_take(message, place, length), "little"),
                    place + length,
                )
            case kind:
                raise ValueError(f"a message has a field of the unknown kind {kind}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def unmask_checksum(masked: int) -> int:
    """Return the CRC-32C that stands masked in a file, as TensorFlow and LevelDB write it."""
    rotated = (masked - _CHECKSUM_MASK) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def _read_table(content: bytes) -> dict[bytes, bytes]:
    footer = content[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise ValueError("is no index of a checkpoint, or is cut off: its last bytes are others")
    _, place = _read_handle(footer, 0)  # of the meta index, which TensorFlow leaves empty
    index_handle, _ = _read_handle(footer, place)
    table: dict[bytes, bytes] = {}
    for _, handle in _read_block(content, index_handle):
        table.update(_read_block(content, _read_handle(handle, 0)[0]))
    return table


def _read_handle(content: bytes, place: int) -> tuple[tuple[int, int], int]:
    """Return where a block lies (offset and length), and the place after this pointer."""
    offset, place = _read_varint(content, place)
    length, place = _read_varint(content, place)
    return (offset, length), place


def _read_block(content: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the names and values of a block, after testing its checksum."""
    offset, length = handle
    block = _take(content, offset, length + _TRAILER_BYTES)
    checked, checksum = block[:-4], int.from_bytes(block[-4:], "little")
    if google_crc32c.value(checked) != unmask_checksum(checksum):
        raise ValueError(f"is damaged: the checksum of the block at byte {offset} does not fit")
    if checked[-1] != _UNCOMPRESSED:
        raise ValueError(
            f"is compressed (Snappy, kind {checked[-1]}), which cannot be read; "
            "TensorFlow itself writes the index of a checkpoint uncompressed"
        )
    return _read_pairs(checked[:-1])


def _read_pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    num_restarts = int.from_bytes(_take(block, len(block) - 4, 4), "little")
    end = len(block) - 4 * (num_restarts + 1)  # places of whole names stand there, for searching
    place, name = 0, b""
    while place < end:
        num_shared, place = _read_varint(block, place)
        num_own, place = _read_varint(block, place)
        num_value, place = _read_varint(block, place)
        name = _take(name, 0, num_shared) + _take(block, place, num_own)
        place += num_own
        yield name, _take(block, place, num_value)
        place += num_value


def _read_varint(content: bytes, place: int) -> tuple[int, int]:
    """Return a number, seven bits a byte, the last byte below 128, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = _take(content, place, 1)[0]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("is damaged: a number does not end")


def _take(content: bytes, place: int, length: int) -> bytes:
    """Return `length` bytes from `place`, all of which must be there."""
    if not 0 <= place <= place + length <= len(content):
        raise ValueError(f"is damaged or cut off: nothing at byte {place + length - 1}")
    return content[place : place + length]


INDEX_SUFFIX = ".index"
VARIABLE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
"""The name of every variable ends so; here it is left out."""

# The numbers that TensorFlow gives to its types (tensorflow/core/framework/types.proto).
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    19: np.dtype("<f2"),
}
_TEXT = 7
_LITTLE_ENDIAN = 0
_FORMAT_VERSION = 1


class TensorEntry(NamedTuple):
    """What the index says of one tensor."""

    dtype: np.dtype[Any] | None
    """None for text and for types that NumPy has not."""
    is_text: bool
    shape: tuple[int, ...]
    shard: int
    offset: int
    num_bytes: int
    checksum: int
    is_sliced: bool
    """Whether the tensor is stored in parts under other names (a partitioned variable)."""


class TensorBundle(Mapping[str, np.ndarray]):
    """A checkpoint by the names of its tensors; each is read, and its checksum tested, when asked for.

    `entries` tells types and shapes without reading. The values are read-only.
    """

    def __init__(self, path: Path) -> None:
        """Read the index of the checkpoint `path`: the path of its files without their endings.

        Raises:
            StageError: there is no such checkpoint, or its index is damaged, or a shard is missing or short.
        """
        self._prefix = find_prefix(path)
        self._index = Path(f"{self._prefix}{INDEX_SUFFIX}")
        table = read_sorted_table(self._index)
        self._num_shards = self._read_header(table.pop(b"", b""))
        self.entries = {
            name.decode("utf-8", "backslashreplace").removesuffix(VARIABLE_SUFFIX): (
                self._read_entry(name, content)
            )
            for name, content in table.items()
        }
        self._check_sizes()

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one tensor.

        Raises:
            KeyError: no such tensor.
            StageError: it is no array of numbers, is stored in slices, or its bytes are damaged.
        """
        entry = self.entries[name]
        shard = self._shard_path(entry.shard)
        if entry.is_sliced:
            raise StageError(
                f"{self._index}: {name} is stored in slices (a partitioned variable), "
                "which cannot be read; save the checkpoint without partitions"
            )
        if entry.dtype is None:
            raise StageError(f"{self._index}: {name} is no array of numbers that can be read")
        try:
            with shard.open("rb") as file:
                file.seek(entry.offset)
                content = file.read(entry.num_bytes)
        except OSError as error:
            raise StageError(f"{shard}: {name} cannot be read: {error}") from error
        if len(content) != entry.num_bytes or google_crc32c.value(content) != entry.checksum:
            raise StageError(f"{shard}: {name} is damaged: its checksum does not fit")
        return np.frombuffer(content, entry.dtype).reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def _read_header(self, content: bytes) -> int:
        """Return the number of shards."""
        try:
            fields = read_fields(content)
            version = read_fields(_bytes(fields.get(3, [b""])[0]))
            num_shards, endianness = _last(fields, 1), _last(fields, 2)
        except ValueError as error:
            raise StageError(f"{self._index}: is no index of a checkpoint: {error}") from error
        if num_shards < 1:
            raise StageError(f"{self._index}: is no index of a checkpoint: it has no header")
        if endianness != _LITTLE_ENDIAN:
            raise StageError(f"{self._index}: was written on a big-endian machine; not supported")
        if _last(version, 2) > _FORMAT_VERSION:
            raise StageError(f"{self._index}: has a newer format, of version {_last(version, 2)}")
        return num_shards

    def _read_entry(self, name: bytes, content: bytes) -> TensorEntry:
        try:
            fields = read_fields(content)
            shape = read_fields(_bytes(fields.get(2, [b""])[0]))
            sizes = [_last(read_fields(_bytes(axis)), 1) for axis in shape.get(2, [])]
            entry = TensorEntry(
                dtype=_DTYPES.get(_last(fields, 1)),
                is_text=_last(fields, 1) == _TEXT,
                shape=tuple(sizes),
                shard=_last(fields, 3),
                offset=_last(fields, 4),
                num_bytes=_last(fields, 5),
                checksum=unmask_checksum(_last(fields, 6)),
                is_sliced=7 in fields,
            )
            _check_entry(entry, self._num_shards)
        except ValueError as error:
            text = name.decode("utf-8", "backslashreplace")
            raise StageError(f"{self._index}: the entry of {text} is damaged: {error}") from error
        return entry

    def _check_sizes(self) -> None:
        """Refuse missing and short shards before anything is read."""
        for number in range(self._num_shards):
            shard = self._shard_path(number)
            if not shard.is_file():
                raise StageError(
                    f"{shard}: is missing: {self._index.name} names {self._num_shards} shards"
                )
            size = shard.stat().st_size
            for name, entry in self.entries.items():
                end = entry.offset + entry.num_bytes
                if entry.shard == number and end > size:
                    raise StageError(
                        f"{shard}: is cut off: {name} ends at byte {end}, the file has {size}"
                    )

    def _shard_path(self, number: int) -> Path:
        return Path(f"{self._prefix}.data-{number:05d}-of-{self._num_shards:05d}")


def find_prefix(path: Path) -> Path:
    """Return the path of a checkpoint without endings, also from the path of its index.

    Raises:
        StageError: there is no index; the message names the checkpoints that are there.
    """
    prefix = path.with_suffix("") if path.suffix == INDEX_SUFFIX else path
    if Path(f"{prefix}{INDEX_SUFFIX}").is_file():
        return prefix
    folder = path if path.is_dir() else path.parent
    others = sorted(str(file.with_suffix("")) for file in folder.glob(f"*{INDEX_SUFFIX}"))
    there = f"the checkpoints there are {', '.join(others)}" if others else "none is there"
    raise StageError(
        f"{path}: is no TensorFlow 2 checkpoint: {prefix}{INDEX_SUFFIX} is missing; {there}"
    )


def _check_entry(entry: TensorEntry, num_shards: int) -> None:
    """Raise ValueError for what no reader could make sense of."""
    if entry.shard >= num_shards:
        raise ValueError(f"it lies in shard {entry.shard} of {num_shards}")
    if entry.dtype is not None and not entry.is_sliced:
        expected = int(np.prod(entry.shape, dtype=object)) * entry.dtype.itemsize
        if expected != entry.num_bytes:
            raise ValueError(f"{entry.dtype} {entry.shape} in {entry.num_bytes} bytes")


def _last(fields: Mapping[int, list[int | bytes]], number: int) -> int:
    """Return a number of a message; 0 where it is absent, as protocol buffers have it."""
    value = fields.get(number, [0])[-1]
    if isinstance(value, bytes):
        raise ValueError(f"field {number} is no number")  # noqa: TRY004 - what the file holds, not a programmer's mistake
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"expected a message, found the number {value}")  # noqa: TRY004 - as above
    return value
