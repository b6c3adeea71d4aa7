"""Errors that a user can mend: the command line prints them without a traceback."""

from collections.abc import Mapping
from typing import Any


class StageError(RuntimeError):
    """A stage cannot go on; the message names the file, field and value, and what to do."""

    def __init__(self, message: str, metrics: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.metrics = metrics
        """Written like those of a finished stage, so that the reason can be read later."""
