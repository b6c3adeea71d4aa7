"""How fast a run goes and what it waits for; whether a node has the memory that it needs."""

import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from vatt.core.errors import StageError
from vatt.model.cost import (
    FLOAT_BYTES,
    Cost,
    Weights,
    count_weights,
    estimate_activations,
    estimate_state_bytes,
)
from vatt.model.vatt import Vatt
from vatt.params import ClipParams, LaunchParams, PretrainParams
from vatt.train.engine import Engine

CONTAINER = Path("/sys/fs/cgroup")
"""Where a process in a container sees its own control group (version 2)."""
GIB = 2**30
NUM_TRIES = 5
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}


def require_memory(
    model: Vatt,
    clip: ClipParams,
    drop_token_rate: float,
    pretrain: PretrainParams,
    launch: LaunchParams,
) -> None:
    """Compare what this rank will hold, by formula, with what is free on its GPU or on its node.

    `model` has its weights already. The formula (docs/scaling.md) leaves out what is small, so that
    what it refuses would have failed; on CPUs the first rank of a node answers for all there.

    Raises:
        StageError: there is too little; the message names node, need and what is free.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    has_gpus = torch.cuda.is_available()
    if not has_gpus and local_rank > 0:
        return
    weights = Weights(*(sum(column) for column in zip(*count_weights(model).values(), strict=True)))
    state = estimate_state_bytes(weights, launch.num_processes, launch.zero_stage)
    num_clips = pretrain.batch_size // (launch.num_processes * pretrain.accumulation_steps)
    left = estimate_activations(model, clip, drop_token_rate, launch.precision)
    again = left.between + left.again
    one_clip = left.clip + (again if launch.recompute_activations else left.kept)
    if has_gpus:
        # What lies in the memory of the CPU while a GPU trains.
        if launch.offload != "none":
            state -= FLOAT_BYTES * weights.trainable * 3 / launch.num_processes
        if launch.offload == "optimizer_and_parameters":
            state -= FLOAT_BYTES * sum(weights) / launch.num_processes
        free, where = torch.cuda.mem_get_info(local_rank)[0], f"GPU {local_rank}"
        num_here = 1
    else:
        state -= FLOAT_BYTES * sum(weights)  # these are there already
        free, where = _find_free_bytes(), "the machine"
    need = num_here * (state + num_clips * one_clip)
    if need > free:
        raise StageError(
            f"{socket.gethostname()}: too little memory: {num_here} processes there need "
            f"{need / GIB:.1f} GiB ({num_here * state / GIB:.1f} for weights, gradients and Adam, "
            f"{num_here * num_clips * one_clip / GIB:.1f} for {num_clips} clips each, by "
            f"docs/scaling.md), and {where} has {free / GIB:.1f} GiB free. More processes, "
            "launch.zero_stage, launch.offload or launch.recompute_activations need less"
        )


def _find_free_bytes() -> int:
    """Return the memory that processes can still get here, in a container within its limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used, details = (
            (CONTAINER / f"memory.{name}").read_text(encoding="utf-8")
            for name in ("max", "current", "stat")
        )
    except OSError:
        return free
    if not limit.strip().isdigit():  # "max"
        return free
    # Pages of files that nobody has read of late are given back when memory is asked for.
    pages = dict(line.split() for line in details.splitlines())
    return min(free, int(limit) - int(used) + int(pages.get("inactive_file", 0)))


class Speed:
    """The speed of the run since the last log window, seen from this rank.

    `cost` is that of one clip in training, None if it is not known. Utilisation is over the
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
