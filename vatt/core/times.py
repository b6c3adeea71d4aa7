"""Time that stages take: each run of one adds a line to `.cache/times.jsonl`, a failed one too."""

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

TIMES_PATH = Path(".cache/times.jsonl")
"""Where neither git nor DVC looks: no result depends on it."""


class Spent(NamedTuple):
    """What one run of a stage took; of other machines nothing is counted."""

    stage: str
    wall_s: float
    user_s: float
    """The time of processors in programs, children that ended included."""
    system_s: float
    """Their time in the kernel."""

    @property
    def cpu_s(self) -> float:
        """The time of processors in all."""
        return self.user_s + self.system_s


@contextmanager
def record_time(stage: str) -> Iterator[None]:
    """Write down how long the block was, and what processor time its process has taken by then."""
    start_s = time.monotonic()
    try:
        yield
    finally:
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        spent = Spent(
            stage,
            time.monotonic() - start_s,
            sum(use.ru_utime for use in uses),
            sum(use.ru_stime for use in uses),
        )
        with suppress(OSError):  # a full disk must not fail a stage that has ended
            TIMES_PATH.parent.mkdir(parents=True, exist_ok=True)
            with TIMES_PATH.open("a", encoding="utf-8") as file:
                file.write(json.dumps(spent._asdict()) + "\n")


def read_times(path: Path = TIMES_PATH) -> list[Spent]:
    """Return what was written down, the oldest first; nothing where there is no file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Spent(**json.loads(line)) for line in lines]
