"""The numbers of a run while it runs: the loss curve, and how fast it goes."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from vatt.atomic import atomic_path
from vatt.params import StageError

PARTS = ("loss", "loss_va", "loss_vt", "gradient_norm")


class Curve:
    """Means over all ranks and over the steps of a log window, a line of JSON for each window.

    All ranks call every method together; `path` is None except on the first rank. The whole curve
    is part of a checkpoint, so that after a resume each step is in the file once.
    """

    def __init__(self, path: Path | None, state: Mapping[str, Any]) -> None:
        self.rows: list[dict[str, float]] = list(state.get("rows", []))
        self._window: list[list[float]] = list(state.get("window", []))
        self._pending: list[tuple[int, Tensor]] = []
        self._path = path
        if path is not None:
            with atomic_path(path) as partial:
                partial.write_text("".join(map(_to_line, self.rows)), encoding="utf-8")

    def add(self, step: int, losses: Float[Tensor, "3"], gradient_norm: Float[Tensor, ""]) -> None:
        """Take in one step of this rank, without waiting for the device."""
        self._pending.append((step, torch.cat([losses.detach().float(), gradient_norm[None]])))

    def close_window(self, step: int, learning_rate: float) -> dict[str, float]:
        """Return the row of the window that ends at `step`, and write it.

        Raises:
            StageError: see `state`.
        """
        self._settle()
        columns = zip(*self._window, strict=True)
        means = (sum(column) / len(column) for column in columns)
        row = {"step": step, **dict(zip(PARTS, means, strict=True)), "learning_rate": learning_rate}
        self.rows.append(row)
        self._window = []
        if self._path is not None:
            _append_row(self._path, row)
        return row

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for the curve to go on.

        Raises:
            StageError: a loss or the gradient of a step is not finite.
        """
        self._settle()
        return {"rows": self.rows, "window": self._window}

    def _settle(self) -> None:
        """Bring the steps since the last call from all ranks together."""
        if not self._pending:
            return
        values = torch.stack([values for _, values in self._pending])
        torch.distributed.all_reduce(values)
        means = (values / torch.distributed.get_world_size()).tolist()
        for (step, _), row in zip(self._pending, means, strict=True):
            _check_finite(step, dict(zip(PARTS, row, strict=True)))
        self._window += means
        self._pending = []


class SpeedLog:
    """Clips per second and the share of time spent waiting for data: on the bar and in a log.

    Only the first rank, whose bar is shown, writes the log.
    """

    def __init__(self, path: Path, bar: "tqdm[NoReturn]") -> None:
        self._path, self._bar = path, bar
        self._num_clips, self._waited_s = 0, 0.0
        self._start_s = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting."""
        start_s = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start_s

    def count(self, num_clips: int) -> None:
        """Take in the clips of a step, over all ranks."""
        self._num_clips += num_clips

    def tell(self, row: Mapping[str, float]) -> None:
        """Log the speed since the last call beside the loss of `row`, and start again."""
        elapsed_s = time.perf_counter() - self._start_s
        clips_per_second, waiting_rate = self._num_clips / elapsed_s, self._waited_s / elapsed_s
        self._bar.set_postfix_str(
            f"loss {row['loss']:.4f}, {clips_per_second:.1f} clips/s, {waiting_rate:.0%} waiting",
            refresh=False,
        )
        if not self._bar.disable:
            speed = {"clips_per_second": clips_per_second, "waiting_rate": waiting_rate}
            _append_row(self._path, {"step": row["step"], **speed})
        self._num_clips, self._waited_s = 0, 0.0
        self._start_s = time.perf_counter()


def _append_row(path: Path, row: Mapping[str, float]) -> None:
    """Add a line of JSON to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(_to_line(row))


def _to_line(row: Mapping[str, float]) -> str:
    return json.dumps(row, sort_keys=True) + "\n"


def _check_finite(step: int, values: Mapping[str, float]) -> None:
    broken = [f"{part} is {value}" for part, value in values.items() if not math.isfinite(value)]
    if broken:
        raise StageError(
            f"step {step}: {', '.join(broken)}; the checkpoint before it is kept. "
            "A lower pretrain.learning_rate or a pretrain.gradient_clip_norm may help"
        )
