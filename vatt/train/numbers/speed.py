"""How fast a run goes, what it waits for, and how much memory it takes."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from vatt.models.accounting import Cost
from vatt.train.engine import Engine

NUM_TRIES = 5
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}


class Speed:
    """The speed of the run since the last log window, seen from this rank.

    `cost` is that of one clip in training, None if it is not to be known. Utilisation is over the
    MEASURED peak: what each rank reaches, in the precision of the run, on one large matrix product.
    """

    def __init__(self, engine: Engine, cost: Cost | None) -> None:
        self._device, self._cost = engine.device, cost
        self._peak = measure_peak(engine) if cost is not None else None
        self._start_s, self._num_clips, self._num_steps = time.perf_counter(), 0, 0
        self._spent_s: dict[str, float] = defaultdict(float)
        self._ranks_s = 0.0

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
        """Measure how long the slowest rank is waited for, with its batch in hand, in this step."""
        if torch.distributed.get_world_size() > 1:
            start_s = time.perf_counter()
            torch.distributed.barrier()
            self._ranks_s = time.perf_counter() - start_s

    def close_window(self) -> dict[str, float]:
        """Return the numbers since the last call, and start again.

        `*_rate` are shares of the time: waiting for data, for other ranks (by a sample of one step),
        saving, validating. `*_per_second` are over all ranks. Memory is what this process holds
        now; that of a GPU is the peak of the run.
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
            row["measured_peak_flops_per_second"] = self._peak * torch.distributed.get_world_size()
            row["flop_utilisation"] = reached / row["measured_peak_flops_per_second"]
        self._start_s, self._num_clips, self._num_steps = time.perf_counter(), 0, 0
        self._spent_s.clear()
        return row


def measure_peak(engine: Engine) -> float:
    """Return the FLOPs per second of a large matrix product on this device, the best of some."""
    side = MATRIX_SIDE[engine.device.type]
    matrix = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).to(engine.device)
    best_s = float("inf")
    for _ in range(NUM_TRIES):
        start_s = time.perf_counter()
        with engine.evaluating():
            product = matrix @ matrix
        float(product[0, 0])  # waits for a GPU
        best_s = min(best_s, time.perf_counter() - start_s)
    return 2 * side**3 / best_s
