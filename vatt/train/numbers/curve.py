"""The loss curve of a run: means over the steps of a log window."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vatt.atomic import atomic_path


class Curve:
    """A line of JSON for each log window, with the means of its losses, which `parts` names.

    `path` is None except on the first rank. The whole curve is part of a checkpoint, so that after a resume each step is in the file once.
    """

    def __init__(self, path: Path | None, parts: Sequence[str], state: Mapping[str, Any]) -> None:
        self.rows: list[dict[str, float]] = list(state.get("rows", []))
        self._window: list[list[float]] = list(state.get("window", []))
        self._path, self._names = path, (*parts, "gradient_norm")
        if path is not None:
            write_rows(path, self.rows)

    def add(self, losses: list[float], gradient_norm: float) -> None:
        """Take in a step whose update was done: its losses over all ranks."""
        self._window.append([*losses, gradient_norm])

    def close_window(self, step: int, learning_rate: float) -> dict[str, float] | None:
        """Return the row of the window that ends at `step`, and write it; None if it has no steps."""
        if not self._window:
            return None
        means = (sum(column) / len(column) for column in zip(*self._window, strict=True))
        row = {
            "step": step,
            **dict(zip(self._names, means, strict=True)),
            "learning_rate": learning_rate,
        }
        self.rows.append(row)
        self._window = []
        if self._path is not None:
            append_row(self._path, row)
        return row

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for the curve to go on."""
        return {"rows": self.rows, "window": self._window}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a log anew, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text("".join(map(to_line, rows)), encoding="utf-8")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line of JSON to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(to_line(row))


def to_line(row: Mapping[str, Any]) -> str:
    """Return a row as one line of JSON."""
    return json.dumps(row, sort_keys=True) + "\n"
