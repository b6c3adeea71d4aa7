"""How a process ends: SIGTERM unwinds its stack, and it does not outlive its parent."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType
from typing import NoReturn

PR_SET_PDEATHSIG = 1  # of Linux's prctl


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack: what was started is ended, and nothing half done is left."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def die_with_parent() -> None:
    """Have Linux kill this process when its parent ends, however that ends and whatever it does.

    Where `multiprocessing` started this process and the parent has ended already, it ends here.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)
