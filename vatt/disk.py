"""What a full or broken disk does to a stage: one line that names the machine and the place."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vatt.params import StageError

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
