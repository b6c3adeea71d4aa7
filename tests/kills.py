"""kill -9 of a training at random moments, in children that are forked after the slow imports."""

import multiprocessing
import random
import time
from collections.abc import Callable, Iterable
from multiprocessing.context import ForkProcess
from pathlib import Path


def fork(train: Callable[[], None]) -> ForkProcess:
    child = multiprocessing.get_context("fork").Process(target=train)
    child.start()
    return child


def kill_on_the_way(
    train: Callable[[], None],
    find_curves: Callable[[], Iterable[Path]],
    num_steps: int,
    generator: random.Random,
) -> None:
    """Train, kill it some steps later, in a step or in a checkpoint, and print how far it came.

    A curve has a line for each step; that of a resumed run begins with those of its checkpoint.
    """

    def count_steps() -> int:
        return sum(len(path.read_bytes().splitlines()) for path in find_curves())

    fatal_step = min(count_steps() + generator.randint(1, 6), num_steps - 1)
    for path in find_curves():
        path.unlink()
    child = fork(train)
    while child.is_alive() and count_steps() < fatal_step:
        time.sleep(0.001)
    time.sleep(generator.random() * 0.1)
    child.kill()
    child.join()
    print(count_steps(), flush=True)  # or the next child prints it again


def train_to_the_end(train: Callable[[], None]) -> None:
    child = fork(train)
    child.join()
    assert child.exitcode == 0
