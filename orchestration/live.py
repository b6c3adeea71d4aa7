"""Curves in the Dagster UI while a stage runs: the numbers that it prints become observations."""

import json
import time
from collections import defaultdict

import dagster as dg

LINE_PREFIX = "numbers: "
"""Of a line that holds numbers as JSON, with their `kind` and `step`; see vatt/train/numbers."""
OBSERVE_EVERY_S = 5.0
"""Of each kind: every observation is a row in Dagster's database."""


class LiveLog:
    """Takes the lines of a stage: numbers become observations of its asset, the rest is logged.

    Numbers of one kind that follow each other faster are left out; the stage's files have them all.
    Each observation holds the newest numbers of every kind: Dagster draws no line over a gap.
    """

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._next_s: dict[str, float] = defaultdict(float)
        self._newest: dict[str, float | str | None] = {}

    def take(self, line: str) -> None:
        """Take in a line."""
        numbers = parse_numbers(line)
        if numbers is None:
            self._context.log.info(line)
            return
        kind, now_s = str(numbers.pop("kind", "")), time.monotonic()
        step = numbers.pop("step", None)
        self._newest |= {f"{kind}/{name}": value for name, value in numbers.items()}
        if now_s >= self._next_s[kind]:
            self._next_s[kind] = now_s + OBSERVE_EVERY_S
            metadata = {"step": step, **self._newest}
            self._context.log_event(dg.AssetObservation(self._context.asset_key, metadata=metadata))


def parse_numbers(line: str) -> dict[str, float | str | None] | None:
    """Return the numbers of a line, or None if it holds none; what is no number is None."""
    if not line.startswith(LINE_PREFIX):
        return None
    try:
        content = json.loads(line.removeprefix(LINE_PREFIX))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
