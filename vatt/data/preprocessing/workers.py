"""Work in several processes, where a crash costs one item and not the run."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_in_workers(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[Result | None]:
    """Yield the results of a function in the order of the items; None where its process died.

    Decoders can kill their process on a broken file. Then the items that were being worked on are
    done again, each in a process of its own, which tells who it was. What the function raises is
    raised here.
    """
    done: dict[int, Result | None] = {}
    running: dict[int, Future[Result]] = {}
    ahead = iter(range(len(items)))
    num_yielded = 0
    pool = _open_pool(num_workers)
    try:
        while num_yielded < len(items):
            started = list(islice(ahead, num_workers + 1 - len(running)))
            try:
                running |= {index: pool.submit(function, items[index]) for index in started}
                finished = wait(running.values(), return_when=FIRST_COMPLETED).done
                done |= {i: future.result() for i, future in running.items() if future in finished}
            except BrokenProcessPool:
                pool.shutdown()
                pool = _open_pool(num_workers)
                done |= {
                    index: _run_alone(function, items[index]) for index in {*started, *running}
                }
            running = {index: future for index, future in running.items() if index not in done}
            while num_yielded in done:
                yield done.pop(num_yielded)
                num_yielded += 1
    finally:
        pool.shutdown(cancel_futures=True)


def _run_alone(function: Callable[[Item], Result], item: Item) -> Result | None:
    with _open_pool(1) as pool:
        try:
            return pool.submit(function, item).result()
        except BrokenProcessPool:
            return None


def _open_pool(num_workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_die_with_parent)


def _die_with_parent() -> None:
    """End this process when its parent ends, however that ends; a pool alone would wait for ever."""

    def follow() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
