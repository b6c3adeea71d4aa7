"""Sorted tables of names and values on disk (the SSTable of LevelDB), and the messages in them.

A table is a row of blocks and a footer. The footer points at the index block, the index block at
the data blocks. Each block ends in a type and a checksum. In a block a name is written without
what it shares with the one before.
"""

from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from vatt.params import StageError

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
