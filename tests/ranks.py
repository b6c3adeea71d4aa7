"""Real processes in a gloo process group, kept for all tests of a session."""

import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Self, TypeVar

import torch
import torch.distributed

Result = TypeVar("Result")


class Ranks:
    """Runs a function on every rank at once; functions stand at the top level of a module."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.pool = ProcessPoolExecutor(num_ranks, mp_context=get_context("spawn"))

    def run(self, function: Callable[..., Result], *arguments: object) -> list[Result]:
        """Return what `function(*arguments)` returns on each rank."""
        with tempfile.TemporaryDirectory() as folder:
            futures = [
                self.pool.submit(_run, rank, self.num_ranks, Path(folder), function, arguments)
                for rank in range(self.num_ranks)
            ]
            return [future.result() for future in futures]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)


def _run(
    rank: int,
    num_ranks: int,
    folder: Path,
    function: Callable[..., Result],
    arguments: tuple[object, ...],
) -> Result:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=num_ranks
    )
    try:
        return function(*arguments)
    finally:
        torch.distributed.destroy_process_group()
