"""Disks that are full or refuse to be written: one line that names the machine and the place."""

import errno
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vatt.core.errors import StageError

REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES})
"""What a disk refuses until a person makes room or gives the right to write. EIO, of a disk that
cannot read, is none of these: another attempt may succeed, on another machine, too."""


def is_refusal(error: BaseException) -> bool:
    """Whether an error says that a disk is full or may not be written to."""
    return isinstance(error, OSError) and error.errno in REFUSALS


def require_space(folder: Path, num_bytes: int, min_free_gb: float) -> None:
    """Raise StageError where `num_bytes` more would leave less than `min_free_gb` on the disk."""
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb - num_bytes / 1e9 < min_free_gb:
        raise StageError(
            f"{folder}: {num_bytes / 1e9:.3f} GB are to come, {free_gb:.3f} GB are free "
            f"and download.fetch.min_free_gb = {min_free_gb} must stay free; make room and run "
            "again: what came is kept"
        )


@contextmanager
def name_disk_errors(*places: Path) -> Iterator[None]:
    """Raise StageError where a disk is full or may not be written: another try would meet it too.

    It names the machine and, where the error does not name its file, the `places` written to.
    """
    written = " or ".join(map(str, places))
    try:
        yield
    except SafetensorError as error:
        raise StageError(f"{socket.gethostname()}: {written}: {error}") from error
    except OSError as error:
        if not is_refusal(error):
            raise
        raise StageError(
            f"{socket.gethostname()}: {error.filename or written}: {error.strerror}; "
            "make room or give the right to write, and run again"
        ) from error
