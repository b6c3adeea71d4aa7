"""Processes that die, hang or are left alone cost at most their item, and none stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from vatt.core.pool import LocalPool, Lost, StallLimit, run_in_workers, work_through


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


def square_or_die(number: int) -> int:
    if number in {0, 4}:
        os.kill(os.getpid(), signal.SIGSEGV)
    return square(number)


def square_or_die_in_answer(number: int) -> int:
    def send_a_part(connection: Connection, content: bytes) -> None:
        os.write(connection.fileno(), bytes(content)[:3])
        os.kill(os.getpid(), signal.SIGKILL)

    if number in {0, 4}:
        Connection._send = send_a_part  # type: ignore[attr-defined]
    return square(number)


def fail(number: int) -> int:
    raise ValueError(f"item {number}")


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(run_in_workers(square, range(10), 2)) == [n * n for n in range(10)]
    assert list(run_in_workers(square, [], 2)) == []


@pytest.mark.parametrize("function", [square_or_die, square_or_die_in_answer])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_crash_costs_only_its_item(function: Callable[[int], int], num_workers: int) -> None:
    expected = [None if n in {0, 4} else n * n for n in range(8)]
    assert list(run_in_workers(function, range(8), num_workers)) == expected


def test_errors_of_the_function_are_raised_with_their_place() -> None:
    with pytest.raises(ValueError, match="item 0") as raised:
        list(run_in_workers(fail, [0], 1))
    assert "in fail" in raised.value.__notes__[0]


def die_once(folder: Path, number: int) -> int:
    marker = folder / str(number)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_an_item_whose_process_was_killed_is_tried_again(tmp_path: Path) -> None:
    pool = LocalPool(partial(die_once, tmp_path), 2)
    assert sorted(work_through(pool, range(3))) == [(0, 0), (1, 1), (2, 2)]


@pytest.fixture
def find_workers() -> Callable[[], list[psutil.Process]]:
    """Find the worker processes of this test; those of other tests may live for the session."""

    def find() -> list[psutil.Process]:
        children = psutil.Process().children()
        spawned = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        return [child for child in spawned if child not in others]

    others: list[psutil.Process] = []
    others = find()
    return find


def hang(folder: Path, number: int) -> int:
    """Go on for ever at 0 and 1, until it is released at 2; else be quick."""
    while number in {0, 1} or (number == 2 and not (folder / "released").exists()):
        time.sleep(0.01)
    return os.getpid()


def test_what_hangs_is_ended_and_what_goes_on_is_not(
    tmp_path: Path, find_workers: Callable[[], list[psutil.Process]]
) -> None:
    asked: Counter[int] = Counter()

    def measure(number: int) -> int | None:
        """Progress is seen at 2 whenever the limit is over, and none at 1."""
        asked[number] += 1
        if asked[2] == 5:
            (tmp_path / "released").touch()
        return {1: 7, 2: asked[2]}.get(number)

    pool = LocalPool(partial(hang, tmp_path), 2)
    results = dict(work_through(pool, range(1, 6), StallLimit(0.1, measure)))
    assert results[0] == Lost("the decoder hung: nothing new for 0.1 s")
    assert all(isinstance(results[place], int) for place in range(1, 5))
    assert asked[1] == 2
    assert not find_workers()


def test_ending_early_ends_what_goes_on(
    tmp_path: Path, find_workers: Callable[[], list[psutil.Process]]
) -> None:
    work = work_through(LocalPool(partial(hang, tmp_path), 2), [3, 0, 0])
    next(work)
    assert len(find_workers()) == 2
    work.close()
    assert not find_workers()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_a_killed_parent(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from vatt.core.pool import run_in_workers\n"
        "if __name__ == '__main__':\n"
        "    print(next(run_in_workers(abs, [1], 1)), flush=True)\n"
        "    results = run_in_workers(time.sleep, [0, 600, 600], 2)\n"
        "    next(results), print('asleep', flush=True), next(results)\n"
    )
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["1\n", "asleep\n"]
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        if number == signal.SIGINT:  # Ctrl-C: all processes of the terminal get it
            os.killpg(process.pid, number)
        else:
            process.kill()
        _, errors = process.communicate()
    assert errors.count("Traceback") == (number == signal.SIGINT)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
