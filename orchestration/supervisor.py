"""Run a command of which nothing outlives the process that asked for it.

The asker holds the other end of this process's standard input. When that end closes, because the
asker cancels, crashes or is killed, the whole process tree of the command is stopped. Signals to
one process would not do: DVC ignores SIGINT and leaves its stage behind on SIGTERM, and torchrun's
workers sit in sessions of their own.
"""

import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes

from vatt.core.signals import POLL_S, adopt_orphans, stop_descendants

GRACE_S = 5.0  # between SIGTERM and SIGKILL
CANCELLED = 128 + signal.SIGTERM  # the exit code of a shell whose command was terminated


def supervise(command: Sequence[str]) -> int:
    """Run a command to its end or until standard input closes; return its exit code.

    Descendants that are still alive afterwards are stopped, also those in other sessions and
    those whose parent died.
    """
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(CANCELLED))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while process.poll() is None:
            if select.select([sys.stdin], [], [], POLL_S)[0]:
                return CANCELLED
    finally:
        # The command sees its children end and ends, too. It gets no signal itself: DVC writes its
        # lock files in place, and a signal in mid-write would leave half a file.
        stop_descendants(GRACE_S, spared_id=process.pid)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    # Stages that report to Dagster open the way back, too, but this process alone closes it.
    is_heard = PipesEnvVarParamsLoader().is_dagster_pipes_process()
    with open_dagster_pipes() if is_heard else nullcontext():
        code = supervise(sys.argv[1:])
    sys.exit(code)
