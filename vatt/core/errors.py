"""Errors that a user can mend: printed without a traceback."""

from collections.abc import Mapping
from typing import Any


class StageError(RuntimeError):
    """A stage cannot go on; the message names the file, field and value, and what to do.

    `metrics` are written like those of a finished stage, so that the reason can be read later.
    """

    def __init__(self, message: str, metrics: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.metrics = metrics
