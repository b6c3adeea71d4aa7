"""Curves in the Dagster UI while a stage runs: the numbers that it reports become observations."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import dagster as dg

OBSERVE_EVERY_S = 5.0
"""The least time between observations of one kind: each is a row in Dagster's database."""
REPORTS_DIR = Path(".cache/dagster")
"""The folder of the reports on their way, below the pipeline, so that other nodes reach it, too."""


class LiveLog:
    """Logs the lines of a stage, and turns the numbers that it reports into observations.

    Of numbers of one kind that follow each other faster, the newest wait for their turn.
    Each observation holds the newest numbers of every kind: Dagster draws no line over a gap.
    """

    def __init__(self, context: dg.AssetExecutionContext, session: dg.PipesSession) -> None:
        self._context, self._session = context, session
        self._num_taken = 0
        self._next_s: dict[str, float] = defaultdict(float)
        self._newest: dict[str, float | str | None] = {}
        self._waiting: dict[str, dict[str, Any]] = {}

    @classmethod
    @contextmanager
    def open(cls, context: dg.AssetExecutionContext, root: Path) -> Iterator[Self]:
        """Listen to one stage of the pipeline in `root` until the block ends."""
        path = (
            root / REPORTS_DIR / f"{context.run.run_id}-{context.asset_key.to_python_identifier()}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesFileMessageReader(str(path)),
        ) as session:
            live = cls(context, session)
            yield live
        live._next_s.clear()
        live._observe()  # what arrived last, and what has waited

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which the stage and its processes find the way back."""
        return self._session.get_bootstrap_env_vars()

    def take(self, line: str) -> None:
        """Log a line of the stage, and look whether numbers have arrived."""
        self._context.log.info(line)
        self._observe()

    def _observe(self) -> None:
        for message in self._session.get_custom_messages()[self._num_taken :]:
            self._num_taken += 1
            numbers: dict[str, Any] = dict(message)
            kind, step = str(numbers.pop("kind")), numbers.pop("step")
            self._newest |= {f"{kind}/{name}": value for name, value in numbers.items()}
            self._waiting[kind] = {"step": step, **self._newest}
        for kind in [kind for kind in self._waiting if time.monotonic() >= self._next_s[kind]]:
            self._next_s[kind] = time.monotonic() + OBSERVE_EVERY_S
            metadata = self._waiting.pop(kind)
            observation = dg.AssetObservation(self._context.asset_key, metadata=metadata)
            self._context.log_event(observation)
