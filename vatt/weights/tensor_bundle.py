"""The tensors of a TensorFlow 2 checkpoint, read without TensorFlow.

A checkpoint X is X.index, a sorted table (the SSTable of LevelDB) of a message for each tensor, and
its shards X.data-00000-of-00001 and so on, which hold the bytes of the tensors.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from vatt.core.errors import StageError

INDEX_SUFFIX = ".index"
VARIABLE_SUFFIX = (
    "/.ATTRIBUTES/VARIABLE_VALUE"  # all names of variables end so; here it is left out
)

# The numbers that TensorFlow gives to its types (tensorflow/core/framework/types.proto); 7 is text.
_CODES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 7: "O", 9: "<i8", 10: "?"}
_DTYPES = {number: np.dtype(code) for number, code in {**_CODES, 19: "<f2"}.items()}
_FORMAT_VERSION, _UNCOMPRESSED = 1, 0
_FOOTER_BYTES, _TRAILER_BYTES = 48, 5
_MAGIC, _CHECKSUM_MASK = 0xDB4775248B80FB57, 0xA282EAD8


class TensorEntry(NamedTuple):
    """What the index says of one tensor."""

    dtype: np.dtype[Any] | None
    """object for text, None for types that NumPy has not."""
    shape: tuple[int, ...]
    shard: int
    offset: int
    num_bytes: int
    checksum: int
    is_sliced: bool
    """Whether the tensor is stored in parts under other names (a partitioned variable)."""


class TensorBundle(Mapping[str, np.ndarray]):
    """A checkpoint by the names of its tensors; `entries` has all types and shapes.

    Each tensor is read, and its checksum tested, when it is asked for.
    """

    def __init__(self, path: Path) -> None:
        """Read the index of the checkpoint `path`: the path of its files without their endings.

        Raises StageError if there is no such checkpoint, or its index is damaged, or a shard is
        missing or short.
        """
        prefix = _find_prefix(path)
        self._index = Path(f"{prefix}{INDEX_SUFFIX}")
        try:
            num_shards, self.entries = _read_index(self._index.read_bytes())
        except (OSError, ValueError) as error:
            raise StageError(f"{self._index}: {error}") from error
        self._shards = [
            Path(f"{prefix}.data-{number:05d}-of-{num_shards:05d}") for number in range(num_shards)
        ]
        for shard in self._shards:
            if not shard.is_file():
                there = f"{self._index.name} names {num_shards} shards"
                raise StageError(f"{shard}: is missing: {there}")
        # Before anything is read, so that an import of gigabytes fails at once.
        for name, entry in self.entries.items():
            shard, end = self._shards[entry.shard], entry.offset + entry.num_bytes
            size = shard.stat().st_size
            if end > size:
                where = f"{name} ends at byte {end}, the file has {size}"
                raise StageError(f"{shard}: is cut off: {where}")

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one tensor.

        Raises:
            KeyError: no such tensor.
            StageError: it is no array of numbers, is stored in slices, or its bytes are damaged.
        """
        entry = self.entries[name]
        shard = self._shards[entry.shard]
        if entry.is_sliced:
            reason = "in slices (a partitioned variable), which cannot be read"
            advice = "save the checkpoint without partitions"
            raise StageError(f"{self._index}: {name} is stored {reason}; {advice}")
        if entry.dtype is None or entry.dtype == object:
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


def _find_prefix(path: Path) -> Path:
    """Return the path of a checkpoint without endings, also from the path of its index."""
    prefix = path.with_suffix("") if path.suffix == INDEX_SUFFIX else path
    if Path(f"{prefix}{INDEX_SUFFIX}").is_file():
        return prefix
    folder = path if path.is_dir() else path.parent
    others = sorted(str(file.with_suffix("")) for file in folder.glob(f"*{INDEX_SUFFIX}"))
    there = f"the checkpoints there are {', '.join(others)}" if others else "none is there"
    raise StageError(
        f"{path}: is no TensorFlow 2 checkpoint: {prefix}{INDEX_SUFFIX} is missing; {there}"
    )


# All below raise ValueError for bytes that are not of the format.


def _read_index(content: bytes) -> tuple[int, dict[str, TensorEntry]]:
    """Return the number of shards, and what is said of each tensor."""
    table = _read_table(content)
    numbers, parts = _parse_message(table.pop(b"", b""))
    num_shards = numbers[1]
    version = _parse_message(b"".join(parts[3]))[0][2]
    if num_shards < 1:
        raise ValueError("is no index of a checkpoint: it has no header")
    if numbers[2]:
        raise ValueError("was written on a big-endian machine; not supported")
    if version > _FORMAT_VERSION:
        raise ValueError(f"has a newer format, of version {version}")
    entries = {}
    for encoded, message in table.items():
        name = encoded.decode("utf-8", "backslashreplace")
        try:
            entries[name.removesuffix(VARIABLE_SUFFIX)] = _read_entry(message, num_shards)
        except ValueError as error:
            raise ValueError(f"the entry of {name} is damaged: {error}") from error
    return num_shards, entries


def _read_entry(content: bytes, num_shards: int) -> TensorEntry:
    numbers, parts = _parse_message(content)
    _, shape = _parse_message(b"".join(parts[2]))
    entry = TensorEntry(
        dtype=_DTYPES.get(numbers[1]),
        shape=tuple(_parse_message(axis)[0][1] for axis in shape[2]),
        shard=numbers[3],
        offset=numbers[4],
        num_bytes=numbers[5],
        checksum=_unmask(numbers[6]),
        is_sliced=bool(parts[7]),
    )
    if entry.shard >= num_shards:
        raise ValueError(f"it lies in shard {entry.shard} of {num_shards}")
    if not (entry.dtype is None or entry.dtype == object or entry.is_sliced):
        # Of Python's numbers, which do not overflow where sizes are damaged.
        expected = int(np.prod(entry.shape, dtype=object)) * entry.dtype.itemsize
        if expected != entry.num_bytes:
            raise ValueError(f"{entry.dtype} {entry.shape} in {entry.num_bytes} bytes")
    return entry


def _read_table(content: bytes) -> dict[bytes, bytes]:
    """Return the names and values of a sorted table: a row of blocks, and a footer.

    The footer points at the index block, the index block at the blocks of data.
    """
    footer = content[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise ValueError("is no index of a checkpoint, or is cut off: its last bytes are others")
    pointers = _Bytes(footer)
    for _ in ("offset", "length"):  # of the meta index, which TensorFlow leaves empty
        pointers.take_number()
    table: dict[bytes, bytes] = {}
    for _, pointer in _read_block(content, pointers):
        table.update(_read_block(content, _Bytes(pointer)))
    return table


def _read_block(content: bytes, pointer: "_Bytes") -> Iterator[tuple[bytes, bytes]]:
    """Yield the names and values of the block that a pointer shows, after testing its checksum.

    A block ends in a type and a checksum; a name lacks what it shares with the one before.
    """
    offset, length = pointer.take_number(), pointer.take_number()
    block = _Bytes(content, offset).take(length + _TRAILER_BYTES)
    checked, checksum = block[:-4], int.from_bytes(block[-4:], "little")
    if google_crc32c.value(checked) != _unmask(checksum):
        raise ValueError(f"is damaged: the checksum of the block at byte {offset} does not fit")
    if checked[-1] != _UNCOMPRESSED:
        raise ValueError(
            f"is compressed (Snappy, kind {checked[-1]}), which cannot be read; "
            "TensorFlow itself writes the index of a checkpoint uncompressed"
        )
    num_restarts = int.from_bytes(_Bytes(block, length - 4).take(4), "little")
    end = length - 4 * (num_restarts + 1)  # the rest serves searching
    pairs, name = _Bytes(block), b""
    while pairs.position < end:
        num_shared, num_own, num_value = (pairs.take_number() for _ in range(3))
        name = _Bytes(name).take(num_shared) + pairs.take(num_own)
        yield name, pairs.take(num_value)


class _Bytes:
    """Bytes that are taken one after the other, and must be there."""

    def __init__(self, content: bytes, position: int = 0) -> None:
        self.content, self.position = content, position

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes."""
        start, self.position = self.position, self.position + length
        if not 0 <= start <= self.position <= len(self.content):
            raise ValueError(f"is damaged or cut off: nothing at byte {self.position - 1}")
        return self.content[start : self.position]

    def take_number(self) -> int:
        """Return the next number: seven bits a byte, the last byte below 128."""
        value = 0
        for shift in range(0, 70, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("is damaged: a number does not end")


def _parse_message(content: bytes) -> tuple[Mapping[int, int], Mapping[int, list[bytes]]]:
    """Return the numbers, and the texts and messages, of a protocol buffer message by their fields.

    A number that is absent is 0, as protocol buffers have it.
    """
    numbers: dict[int, int] = defaultdict(int)
    parts: dict[int, list[bytes]] = defaultdict(list)
    rest = _Bytes(content)
    while rest.position < len(content):
        tag = rest.take_number()
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            numbers[field] = rest.take_number()
        elif kind == 2:
            parts[field].append(rest.take(rest.take_number()))
        elif kind in (1, 5):
            numbers[field] = int.from_bytes(rest.take(8 if kind == 1 else 4), "little")
        else:
            raise ValueError(f"a message has a field of the unknown kind {kind}")
    return numbers, parts


def _unmask(masked: int) -> int:
    """Return the CRC-32C that stands masked in a file, as TensorFlow and LevelDB write it."""
    rotated = (masked - _CHECKSUM_MASK) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
