"""What a full or broken disk does to a stage: one line that names the machine and the place.

Space on the disk: looked at before and while files come in, so that nothing fills it up.
"""

import errno
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vatt.core.errors import StageError

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def require_space(folder: Path, num_bytes: int, min_free_gb: float) -> None:
    """Refuse to go on where `num_bytes` more would leave less than `min_free_gb` on the disk.

    Raises:
        StageError: they would.
    """
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb - num_bytes / 1e9 < min_free_gb:
        raise StageError(
            f"{folder}: {num_bytes / 1e9:.3f} GB are to come, {free_gb:.3f} GB of the disk are free "
            f"and download.fetch.min_free_gb = {min_free_gb} must stay free; make room and run "
            "again: what came is kept"
        )


@contextmanager
def name_full_disk(path: Path) -> Iterator[None]:
    """Turn the errors of a disk that takes no more into one that says what to do.

    Raises:
        StageError: the disk is full, or must not be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_IS_FULL:
            raise StageError(
                f"{path}: cannot be written: {error.strerror}; make room and run again: "
                "what came is kept"
            ) from error
        raise


DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}
"""What a disk refuses until a person makes room or gives the right."""


@contextmanager
def telling_disk_errors(*places: Path) -> Iterator[None]:
    """Name the machine and, where an error does not say it, the `places` that are written to.

    Raises:
        StageError: a disk is full or may not be written; another attempt would meet it too.
    """
    written = " or ".join(map(str, places))
    try:
        yield
    except SafetensorError as error:
        raise StageError(f"{socket.gethostname()}: {written}: {error}") from error
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        place = error.filename or written
        raise StageError(f"{socket.gethostname()}: {place}: {error.strerror}") from error
