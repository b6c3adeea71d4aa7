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


def run_command(command: Sequence[str], setting: str) -> str:
    """Return what a command prints.

    Raises:
        CommandError: it failed.
        StageError: it is not on this machine, though `setting` of params.yaml needs it.
    """
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError as error:
        raise StageError(f"{setting}: {command[0]} is not on this machine") from error
    except subprocess.CalledProcessError as error:
        raise CommandError(f"{shlex.join(command)}: {error.stderr.strip()}") from error


def ask_patiently(command: Sequence[str], setting: str, answers: Sequence[str]) -> str:
    """Return what a command prints, which is run again while the controller does not answer.

    Raises:
        CommandError: it failed with one of `answers`, or in any way for PATIENCE_S.
        StageError: it is not on this machine.
    """
    deadline_s, is_told = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            return run_command(command, setting)
        except CommandError as error:
            is_answer = any(answer in str(error) for answer in answers)
            if is_answer or time.monotonic() >= deadline_s:
                raise
            if not is_told:
                print(f"{error}\nasking again, for {PATIENCE_S:g} s", file=sys.stderr, flush=True)
                is_told = True
        time.sleep(ASK_AGAIN_S)
