"""How a process ends: SIGTERM unwinds its stack, and it does not outlive the one that started it."""

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SET_PARENT_DEATH_SIGNAL = 1
"""Of Linux's prctl."""


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
    """Have Linux kill this process when its parent ends, however that ends and whatever it does."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
