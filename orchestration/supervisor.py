"""Run a command of which nothing outlives the process that asked for it.

The asker holds the other end of this process's standard input. When that end closes, because the
asker cancels, crashes or is killed, the whole process tree of the command is stopped. Signals to
one process would not do: DVC ignores SIGINT and leaves its stage behind on SIGTERM, and torchrun's
workers sit in sessions of their own.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress

import psutil
from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes

POLL_S = 0.1
GRACE_S = 5.0  # between SIGTERM and SIGKILL
CANCELLED = 128 + signal.SIGTERM  # the exit code of a shell whose command was terminated
PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl


def supervise(command: Sequence[str]) -> int:
    """Run a command to its end or until standard input closes; return its exit code.

    Descendants that are still alive afterwards are stopped, also those in other sessions and
    those whose parent died.
    """
    _adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(CANCELLED))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while process.poll() is None:
            if select.select([sys.stdin], [], [], POLL_S)[0]:
                return CANCELLED
    finally:
        stop_descendants(process.pid, GRACE_S)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def stop_descendants(command_pid: int, grace_s: float) -> None:
    """Send SIGTERM to every descendant of this process, and SIGKILL to what is left after grace_s.

    The command itself is not signalled in that time. It sees its children end and ends, too: DVC
    writes its lock files in place, and a signal in mid-write would leave half a file.
    """
    deadline = time.monotonic() + grace_s
    told = {command_pid}
    while alive := psutil.Process().children(recursive=True):
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                if time.monotonic() > deadline:
                    process.kill()
                elif process.pid not in told:
                    process.terminate()
                    told.add(process.pid)
        psutil.wait_procs(alive, timeout=POLL_S)


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none is out of sight."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    # Stages that report to Dagster open the way back, too, but this process alone closes it.
    is_heard = PipesEnvVarParamsLoader().is_dagster_pipes_process()
    with open_dagster_pipes() if is_heard else nullcontext():
        code = supervise(sys.argv[1:])
    sys.exit(code)
