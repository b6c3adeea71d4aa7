import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vatt.data.preprocessing.workers import run_in_workers


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


def square_or_die(number: int) -> int:
    if number in {0, 4}:
        os.kill(os.getpid(), signal.SIGSEGV)
    return square(number)


def fail(number: int) -> int:
    raise ValueError(f"item {number}")


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(run_in_workers(square, range(10), 2)) == [n * n for n in range(10)]
    assert list(run_in_workers(square, [], 2)) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_crash_costs_only_its_item(num_workers: int) -> None:
    expected = [None if n in {0, 4} else n * n for n in range(8)]
    assert list(run_in_workers(square_or_die, range(8), num_workers)) == expected


def test_errors_of_the_function_are_raised() -> None:
    with pytest.raises(ValueError, match="item 0"):
        list(run_in_workers(fail, [0], 1))


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from vatt.data.preprocessing.workers import run_in_workers\n"
        "if __name__ == '__main__':\n"
        "    print(next(run_in_workers(abs, [1], 1)), flush=True)\n"
        "    results = run_in_workers(time.sleep, [0, 600, 600], 2)\n"
        "    next(results), print('asleep', flush=True), next(results)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["1\n", "asleep\n"]
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
