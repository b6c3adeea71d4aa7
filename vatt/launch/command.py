"""The commands of a cluster, whose controller may be away for a while."""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

from vatt.core.errors import StageError

PATIENCE_S = 600.0
"""So long a controller may be away, as while it restarts, before nothing more is asked of it."""
ASK_AGAIN_S = 5.0


class CommandError(StageError):
    """A command failed; the message holds what it wrote."""


def run_command(command: Sequence[str], setting: str, answers: Sequence[str] = ("",)) -> str:
    """Return what a command prints.

    It is run again, for PATIENCE_S, while it fails with something else than one of `answers`;
    the empty one is in every failure.

    Raises:
        CommandError: it failed.
        StageError: it is not on this machine, though `setting` of params.yaml needs it.
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
        is_answer = any(answer in message for answer in answers)
        if is_answer or time.monotonic() >= deadline_s:
            raise CommandError(message)
        if not is_said:
            print(f"{message}\nasking again, for {PATIENCE_S:g} s", file=sys.stderr, flush=True)
            is_said = True
        time.sleep(ASK_AGAIN_S)
