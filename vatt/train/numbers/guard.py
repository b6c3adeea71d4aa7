"""Steps that would do harm: a loss or gradient that is not finite, or a loss that leaps up."""

import math
import statistics
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vatt.params import StageError, TrainingParams

MEDIAN_STEPS = 100
FIRST_JUDGED_STEPS = 20
"""With fewer losses behind it, no loss is called a spike."""


class BadStepsError(StageError):
    """A run ended by itself: its numbers went wrong."""


class Guard:
    """Judges every step, from numbers that are the same on every rank: all of them agree.

    It follows from the steps alone, and its state is part of a checkpoint: a run that was killed
    and started again decides as an uninterrupted one does.
    """

    def __init__(
        self,
        section: str,
        parts: Sequence[str],
        training: TrainingParams,
        state: Mapping[str, Any],
    ) -> None:
        self._section, self._parts, self._training = section, parts, training
        self._losses = deque[float](state.get("losses", []), maxlen=MEDIAN_STEPS)
        self._num_bad = int(state.get("num_bad", 0))

    def find_problem(self, losses: list[float]) -> str | None:
        """Return what is wrong with the losses of a step, before its update; None if nothing is."""
        named = zip(self._parts, losses, strict=True)
        broken = [f"{part} is {loss}" for part, loss in named if not math.isfinite(loss)]
        if broken:
            return ", ".join(broken)
        factor = self._training.spike_factor
        if factor is not None and len(self._losses) >= FIRST_JUDGED_STEPS:
            median = statistics.median(self._losses)
            if losses[0] > factor * median:
                return f"loss is {losses[0]:.4g}, the median of the steps before is {median:.4g}"
        return None

    def accept(self, loss: float) -> None:
        """Take in the loss of a step that was done."""
        self._losses.append(loss)

    def reject(self, step: int, problem: str) -> None:
        """Count a step whose update was left out, and say so.

        Raises:
            BadStepsError: the run is to end.
        """
        self._num_bad += 1
        section = self._section
        if self._training.on_bad_step == "stop":
            raise BadStepsError(
                f"step {step}: {problem}; the checkpoint before it is kept. A lower learning rate "
                f"or a {section}.gradient_clip_norm may help; "
                f"{section}.on_bad_step = skip or roll_back goes on"
            )
        if self._num_bad > self._training.max_bad_steps:
            raise BadStepsError(
                f"step {step}: {problem}; these are more bad steps than "
                f"{section}.max_bad_steps = {self._training.max_bad_steps}"
            )
        if torch.distributed.get_rank() == 0:
            print(f"{section}: step {step} is left out: {problem}", file=sys.stderr)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to judge as before."""
        return {"losses": list(self._losses), "num_bad": self._num_bad}
