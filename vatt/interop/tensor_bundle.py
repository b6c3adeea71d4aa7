"""The tensors of a TensorFlow 2 checkpoint, read without TensorFlow.

A checkpoint X is X.index, a sorted table of names (`vatt.interop.sorted_table`), and its shards
X.data-00000-of-00001 and so on, which hold the bytes of the tensors.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from vatt.interop.sorted_table import read_fields, read_sorted_table, unmask_checksum
from vatt.params import StageError

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
