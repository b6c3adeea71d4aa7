"""What is shown and watched while a run trains: its numbers, its speed, and whether it lives.

`Speed` says what the time is spent on, `Live` shows numbers; `Watch`, beside the ranks, sees when
one stops.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

import psutil
import torch
from tqdm import tqdm

from vatt.core.errors import StageError
from vatt.core.files import atomic_path
from vatt.core.reports import report_numbers
from vatt.model.cost import Cost
from vatt.params.launch import SupervisionParams
from vatt.train.engine import Engine
from vatt.train.precision import measure_peak

BAR = {
    "loss": "loss {:.4f}",
    "clips_per_second": "{:.1f} clips/s",
    "waiting_rate": "{:.0%} waiting",
}
"""The numbers in the progress bar, and how each is written."""
DIRECTORY_VARIABLE = "VATT_HEARTBEATS"
"""The folder, on the node's own disk, in which each rank has a file; unset: nobody looks."""


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a log anew, whole or not at all."""
    with atomic_path(path) as partial:
        lines = [json.dumps(row, sort_keys=True) + "\n" for row in rows]
        partial.write_text("".join(lines), encoding="utf-8")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line of JSON to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, sort_keys=True) + "\n")


def write_heartbeat(step: int) -> None:
    """Write the steps that this rank has done into the file that `Watch` reads, if it does."""
    if directory := os.environ.get(DIRECTORY_VARIABLE):
        path = Path(directory, os.environ["RANK"])
        partial = path.with_suffix(".partial")
        partial.write_text(f"{step} {os.getpid()}", encoding="utf-8")
        partial.replace(path)


class BadStepsError(StageError):
    """A run ended by itself: its numbers went wrong."""


class Live:
    """Shows the numbers of the first rank: a progress bar, TensorBoard, and lines in a log."""

    def __init__(self, section: str, directory: Path, start_step: int, num_steps: int) -> None:
        self._directory = directory
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

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def advance(self, step: int) -> None:
        """Move the bar by a step, and write the steps done into the file that `Watch` reads."""
        self._bar.update()
        write_heartbeat(step)

    def show(self, step: int, kind: str, row: Mapping[str, float] | None) -> None:
        """Show numbers of one kind: "curve", "speed", "health" or "validation".

        The speed, which no checkpoint holds, also gets a line in `directory/speed.jsonl`.
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
        known = [text.format(self._newest[n]) for n, text in BAR.items() if n in self._newest]
        self._bar.set_postfix_str(", ".join(known), refresh=False)
        report_numbers(kind, step, values)


class Speed:
    """The speed of the run since the last log window, seen from this rank.

    `cost` is that of one clip in training, None if it is not known. Utilisation is over the
    MEASURED peak: the fastest matrix product of each rank (`measure_peak`), or the run itself where
    that was faster, because others used the machine at its start.
    """

    def __init__(self, engine: Engine, cost: Cost | None) -> None:
        self._device, self._cost = engine.device, cost
        self._peak = None if cost is None else measure_peak(engine)
        self._spent_s: dict[str, float] = defaultdict(float)
        self._ranks_s = 0.0
        self._open_window()

    def _open_window(self) -> None:
        self._start_s, self._num_clips, self._num_steps = time.perf_counter(), 0, 0
        self._spent_s.clear()

    @contextmanager
    def spending(self, what: str) -> Iterator[None]:
        """Count the time inside as spent on `what`."""
        start_s = time.perf_counter()
        yield
        self._spent_s[what] += time.perf_counter() - start_s

    def count(self, num_clips: int) -> None:
        """Take in the clips of a step, over all ranks."""
        self._num_clips += num_clips
        self._num_steps += 1

    def wait_for_ranks(self) -> None:
        """Measure how long this rank, with its batch in hand, waits for the slowest one."""
        if torch.distributed.get_world_size() > 1:
            start_s = time.perf_counter()
            torch.distributed.barrier()
            self._ranks_s = time.perf_counter() - start_s

    def close_window(self) -> dict[str, float]:
        """Return the numbers since the last call, and start again.

        `*_rate` are shares of the time: waiting for data, for other ranks (as in one step of the
        window), saving, validating. `*_per_second` are over all ranks. Memory is what this process
        holds now; that of a GPU is the peak of the run.
        """
        elapsed_s = time.perf_counter() - self._start_s
        clips_per_second = self._num_clips / elapsed_s
        row = {
            "clips_per_second": clips_per_second,
            "ranks_rate": min(1.0, self._ranks_s * self._num_steps / elapsed_s),
            "memory_bytes": float(psutil.Process().memory_info().rss),
        }
        for what in ("waiting", "saving", "validating"):
            row[f"{what}_rate"] = self._spent_s[what] / elapsed_s
        if self._device.type == "cuda":
            row["gpu_memory_bytes"] = float(torch.cuda.max_memory_allocated(self._device))
        if self._cost is not None and self._peak is not None:
            reached = clips_per_second * self._cost.training
            row["tokens_per_second"] = clips_per_second * self._cost.num_tokens
            row["flops_per_second"] = reached
            num_ranks = torch.distributed.get_world_size()
            self._peak = max(self._peak, reached / num_ranks)
            row["measured_peak_flops_per_second"] = self._peak * num_ranks
            row["flop_utilisation"] = reached / row["measured_peak_flops_per_second"]
        self._open_window()
        return row


@dataclass
class Watch:
    """The heartbeats of the ranks on this node (see `Live.advance`), seen again and again."""

    directory: Path
    num_ranks: int
    limits: SupervisionParams
    _started_s: float = field(default_factory=time.monotonic)
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    """The last heartbeat of each rank, and when it was new."""

    def find_stall(self) -> str | None:
        """Return which rank makes no step, in words, or None while all ranks of this node do."""
        now_s, limits = time.monotonic(), self.limits
        for path in self.directory.glob("*[0-9]"):
            text = path.read_text(encoding="utf-8")
            if self._seen.get(int(path.name), ("", 0.0))[0] != text:
                self._seen[int(path.name)] = text, now_s
        if len(self._seen) < self.num_ranks and now_s - self._started_s > limits.start_timeout_s:
            return f"no first step within {limits.start_timeout_s:g} s (start_timeout_s)"
        stalled = []
        for rank, (text, seen_s) in sorted(self._seen.items()):
            if now_s - seen_s > limits.step_timeout_s:
                step, process = text.split()
                try:
                    state = psutil.Process(int(process)).status()
                except psutil.NoSuchProcess:
                    state = "gone"
                stalled.append(f"rank {rank}: step {step}, process {state}")
        if not stalled:
            return None
        limit = f"no new step within {limits.step_timeout_s:g} s (step_timeout_s)"
        return f"{limit}: {', '.join(stalled)}"
