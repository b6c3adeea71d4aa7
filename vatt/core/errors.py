"""Errors that a user can mend, and how long to wait for those that pass."""

import random
from collections.abc import Mapping
from typing import Any

LONGEST_WAIT_S = 60.0


class StageError(RuntimeError):
    """A stage cannot go on; the message names the file, field and value, and what to do.

    The command line prints it without a traceback.
    """

    def __init__(self, message: str, metrics: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.metrics = metrics
        """Written like those of a finished stage, so that the reason can be read later."""


def backoff_s(first_s: float, failures: int) -> float:
    """Return the seconds to wait after so many failures in a row, 1 or more.

    The wait begins at `first_s` and doubles with each failure, up to a minute, less a random part
    of up to half: no two ask in step.
    """
    return min(first_s * 2.0 ** min(failures - 1, 30), LONGEST_WAIT_S) * random.uniform(0.5, 1.0)
