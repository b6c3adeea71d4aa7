"""How a process that trains says that it lives, and how those beside it notice when it does not."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from vatt.params.launch import SupervisionParams

DIRECTORY_VARIABLE = "VATT_HEARTBEATS"
"""The folder, on the node's own disk, in which each rank has a file; unset: nobody listens."""


class Heartbeat:
    """The heartbeat of this rank: the number of steps done and the process, in a file."""

    def __init__(self) -> None:
        directory = os.environ.get(DIRECTORY_VARIABLE)
        self._path = Path(directory, os.environ["RANK"]) if directory else None

    def beat(self, step: int) -> None:
        """Say that `step` steps are done; steps may be said again to gain time."""
        if self._path is not None:
            partial = self._path.with_suffix(".partial")
            partial.write_text(f"{step} {os.getpid()} {time.monotonic_ns()}", encoding="utf-8")
            partial.replace(self._path)


@dataclass
class Watch:
    """The heartbeats of the ranks on this node, seen again and again."""

    directory: Path
    started_s: float = field(default_factory=time.monotonic)
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)

    def look(self) -> dict[int, dict[str, float | str]]:
        """Return of each rank that has spoken: step, seconds without a beat, state of the process."""
        ranks: dict[int, dict[str, float | str]] = {}
        for path in self.directory.iterdir():
            if path.suffix:
                continue
            rank, text, now_s = int(path.name), path.read_text(encoding="utf-8"), time.monotonic()
            if self._seen.get(rank, ("", 0.0))[0] != text:
                self._seen[rank] = (text, now_s)
            step, process, _ = text.split()
            idle_s = now_s - self._seen[rank][1]
            ranks[rank] = {"step": int(step), "idle_s": idle_s, "state": _state(int(process))}
        return ranks

    def find_stall(
        self,
        ranks: Mapping[int, Mapping[str, float | str]],
        num_ranks: int,
        limits: SupervisionParams,
    ) -> str | None:
        """Say which rank makes no step, or None while all `num_ranks` of this node do."""
        waited_s = time.monotonic() - self.started_s
        if len(ranks) < num_ranks and waited_s > limits.start_timeout_s:
            return f"no first step within {limits.start_timeout_s:g} s (start_timeout_s)"
        stalled = {
            rank: seen
            for rank, seen in ranks.items()
            if float(seen["idle_s"]) > limits.step_timeout_s
        }
        if not stalled:
            return None
        states = ", ".join(
            f"rank {rank}: step {seen['step']}, process {seen['state']}"
            for rank, seen in sorted(stalled.items())
        )
        return f"no new step within {limits.step_timeout_s:g} s (step_timeout_s): {states}"


def _state(process: int) -> str:
    try:
        return str(psutil.Process(process).status())
    except psutil.NoSuchProcess:
        return "gone"
