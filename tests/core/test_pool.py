"""Processes that die, hang or are left alone cost at most their item, and none stays behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from tests.made_media import Clip
from tests.preprocess.runs import digest_files, preprocess, read_quarantine, write_clips
from vatt.core.pool import CRASHED, LocalPool, Lost, StallLimit, run_in_workers, work_through
from vatt.corpus.index import read_index
from vatt.corpus.manifest import write_manifest


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


NAMES = ["a.mp4", "b.mp4", "c.mp4"]


def kill_readers(pipe: Path, num_kills: int, before: Callable[[], object]) -> None:
    """Kill the processes that read a named pipe, one after the other, with -9."""
    for _ in range(num_kills):
        with pipe.open("wb"):  # returns when somebody reads
            readers = [child for child in psutil.Process().children() if is_reader(child, pipe)]
            before()
            for reader in readers:
                reader.send_signal(signal.SIGKILL)
                reader.wait(60)


def is_reader(process: psutil.Process, pipe: Path) -> bool:
    opened = Path(f"/proc/{process.pid}/fd").iterdir()
    return any(path.exists() and path.samefile(pipe) for path in opened)


def write(tmp_path: Path, num_kills: int, before: Callable[[], object]) -> dict[str, str]:
    """Preprocess with two workers, one of which is killed; return the digests of all files."""
    arguments = (tmp_path / "download/s/b.mp4", num_kills, before)
    killer = threading.Thread(target=kill_readers, args=arguments, daemon=True)
    killer.start()
    counts = preprocess(tmp_path / "download", tmp_path / "out", num_workers=2)
    killer.join(60)
    assert not killer.is_alive()
    assert counts["inputs"] == len(NAMES)
    return digest_files(tmp_path / "out")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe in the place of one of three clips."""
    rows = write_clips(tmp_path / "download", dict.fromkeys(NAMES, Clip(duration_s=1.0)))
    write_manifest(tmp_path / "download", rows)
    path = tmp_path / "download/s/b.mp4"
    path.rename(tmp_path / "kept")
    os.mkfifo(path)
    return path


def test_after_one_kill_nothing_is_lost(pipe: Path, tmp_path: Path) -> None:
    disturbed = write(tmp_path, 1, lambda: (tmp_path / "kept").replace(pipe))
    preprocess(tmp_path / "download", tmp_path / "undisturbed")
    assert disturbed == digest_files(tmp_path / "undisturbed")
    assert not read_quarantine(tmp_path / "out")


def test_the_second_kill_quarantines_the_file(pipe: Path, tmp_path: Path) -> None:
    write(tmp_path, 2, lambda: None)
    assert read_quarantine(tmp_path / "out") == {"b.mp4": CRASHED}
    assert Counter(read_index(tmp_path / "out")["video_id"]) == {"a.mp4": 1, "c.mp4": 1}
