"""How processes end: SIGTERM unwinds a stack, and no process outlives the one that started it."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from types import FrameType
from typing import NoReturn

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl
POLL_S = 0.1


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


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none is out of sight."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("Linux's prctl refuses to make this process a subreaper")


def stop_descendants(grace_s: float = 0.0, spared_id: int | None = None) -> None:
    """Kill all that runs below this process, in whatever session or state it is.

    With `grace_s` each gets SIGTERM first, and that time to end; the process `spared_id` gets the
    time, but no SIGTERM.
    """
    deadline_s, signalled = time.monotonic() + grace_s, {spared_id}
    while alive := psutil.Process().children(recursive=True):
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                if time.monotonic() >= deadline_s:
                    process.kill()
                elif process.pid not in signalled:
                    process.terminate()
                    signalled.add(process.pid)
        psutil.wait_procs(alive, timeout=POLL_S)
