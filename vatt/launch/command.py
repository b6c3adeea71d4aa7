"""The commands of a cluster, whose controller may be away for a while."""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

from vatt.core.errors import StageError

PATIENCE_S = 600.0
"""How long a controller may be away, as while it restarts, before a job is given up."""
ASK_AGAIN_S = 5.0


def run_command(command: Sequence[str], setting: str, answers: Sequence[str] | None = None) -> str:
    """Return what a command prints.

    With `answers`, it is run again, for PATIENCE_S, until it succeeds or fails with one of them,
    and what it failed with is returned.

    Raises:
        StageError: it failed, or is not on this machine, though `setting` of params.yaml needs it.
    """
    deadline_s, is_said = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise StageError(f"{setting}: {command[0]} is not on this machine") from error
        if done.returncode == 0:
            return done.stdout.strip()
        message = f"{shlex.join(command)}: {done.stderr.strip()}"
        if answers is not None and any(answer in message for answer in answers):
            return message
        if answers is None or time.monotonic() >= deadline_s:
            raise StageError(message)
        if not is_said:
            print(f"{message}\nasking again, for {PATIENCE_S:g} s", file=sys.stderr, flush=True)
            is_said = True
        time.sleep(ASK_AGAIN_S)
