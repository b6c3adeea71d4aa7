"""How a rank shows that it lives, and how a process beside it notices when it does not."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from vatt.params.launch import SupervisionParams

DIRECTORY_VARIABLE = "VATT_HEARTBEATS"
"""The folder, on the node's own disk, in which each rank has a file; unset: nobody looks."""


def beat(step: int) -> None:
    """Write the number of steps done, and the process, into the file of this rank."""
    if directory := os.environ.get(DIRECTORY_VARIABLE):
        path = Path(directory, os.environ["RANK"])
        partial = path.with_suffix(".partial")
        partial.write_text(f"{step} {os.getpid()}", encoding="utf-8")
        partial.replace(path)


@dataclass
class Watch:
    """The heartbeats of the ranks on this node, seen again and again."""

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
                stalled.append(f"rank {rank}: step {step}, process {_find_state(int(process))}")
        if not stalled:
            return None
        return f"no new step within {limits.step_timeout_s:g} s (step_timeout_s): " + ", ".join(
            stalled
        )


def _find_state(process: int) -> str:
    try:
        return str(psutil.Process(process).status())
    except psutil.NoSuchProcess:
        return "gone"
