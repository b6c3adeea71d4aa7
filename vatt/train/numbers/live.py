"""Where the numbers of a run are shown while it runs: the bar, logs, TensorBoard, lines for Dagster."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import torch
from tqdm import tqdm

from vatt.train.numbers.curve import append_row

LINE_PREFIX = "numbers: "
"""Of a printed line; the orchestrator draws curves from what follows, a JSON object."""

BAR = {
    "loss": "loss {:.4f}",
    "clips_per_second": "{:.1f} clips/s",
    "waiting_rate": "{:.0%} waiting",
}
"""What the bar shows, and how."""


class Live:
    """Shows numbers; only the first rank does."""

    def __init__(self, section: str, directory: Path, start_step: int, num_steps: int) -> None:
        self._section, self._directory = section, directory
        self._is_first = torch.distributed.get_rank() == 0
        self._bar: tqdm[NoReturn] = tqdm(
            desc=section,
            unit="step",
            initial=start_step,
            total=num_steps,
            disable=not self._is_first,
            mininterval=1 if sys.stderr.isatty() else 15,  # a log file gets a line now and then
            dynamic_ncols=True,
        )
        self._newest: dict[str, float] = {}
        self._board: Any = None
        if self._is_first and start_step < num_steps:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=start_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def advance(self) -> None:
        """Move the bar by a step."""
        self._bar.update()

    def show(self, step: int, kind: str, row: Mapping[str, float] | None) -> None:
        """Show numbers of one kind: "curve", "speed", "health" or "validation", names and values.

        What checkpoints hold has files of its own; the speed gets a line in `directory/speed.jsonl`.
        """
        if not self._is_first or row is None:
            return
        values = {name: value for name, value in row.items() if name != "step"}
        if kind == "speed":
            append_row(self._directory / f"{kind}.jsonl", {"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        self._board.flush()
        self._newest |= values
        known = (
            text.format(self._newest[name]) for name, text in BAR.items() if name in self._newest
        )
        self._bar.set_postfix_str(", ".join(known), refresh=False)
        if not sys.stderr.isatty():  # there a person has the bar
            line = {"kind": kind, "step": step, **values}
            print(LINE_PREFIX + json.dumps(line, sort_keys=True), flush=True)

    def say(self, step: int, message: str) -> None:
        """Write a message of the first rank."""
        if self._is_first:
            print(f"{self._section}: step {step}: {message}", file=sys.stderr)
