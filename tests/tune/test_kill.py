"""kill -9 of tune and of its workers at random moments: the same study as in peace."""

import random
import signal
import time
from collections import Counter
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import psutil
import pytest

from tests.tune.conftest import (
    PATIENCE_S,
    check_rows,
    make_plan,
    make_slowly,
    read_files,
    read_log,
)

NUM_WORKERS = 2
FORK = get_context("fork")
"""Forked after the slow imports, so that many kills take seconds."""


def start(folder: Path, out: str = "out") -> ForkProcess:
    plan = make_plan(num_workers=NUM_WORKERS, max_restarts=1000)
    tune = FORK.Process(target=make_slowly, args=(plan, folder, out))
    tune.start()
    return tune


def end(tune: ForkProcess) -> int | None:
    tune.join(PATIENCE_S)
    return tune.exitcode


def list_workers(tune: ForkProcess) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(tune.pid).children()
    except psutil.NoSuchProcess:
        return []
    return found


def wait_for_steps(folder: Path, num_steps: int, tune: ForkProcess) -> None:
    """Wait until so many steps were computed since now."""
    deadline_s, end_step = time.monotonic() + PATIENCE_S, len(read_log(folder)) + num_steps
    while len(read_log(folder)) < end_step and tune.is_alive():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def wait_for_end(workers: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(workers, PATIENCE_S)
    assert not alive


def kill(folder: Path, generator: random.Random, *, worker_first: bool) -> None:
    """Kill tune, whose workers end by themselves; before it one worker, while the others go on."""
    tune = start(folder)
    wait_for_steps(folder, generator.randint(1 if worker_first else 0, 3), tune)
    if worker_first:
        time.sleep(generator.random() * 0.1)
        if workers := list_workers(tune):
            generator.choice(workers).kill()
    time.sleep(generator.random() * 0.2)
    workers = list_workers(tune)
    tune.kill()
    tune.join(PATIENCE_S)
    wait_for_end(workers)


@pytest.mark.parametrize(
    ("seed", "num_kills"),
    [(1, 1), pytest.param(2, 10, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_killed_studies_end_as_others(
    tmp_path: Path, expected: dict[str, bytes], seed: int, num_kills: int
) -> None:
    generator = random.Random(seed)
    for number in range(num_kills):
        kill(tmp_path, generator, worker_first=number % 2 == 0)
    assert end(start(tmp_path)) == 0
    assert read_files(tmp_path) == expected
    check_rows(make_plan(), tmp_path / "cache")
    steps = Counter(read_log(tmp_path))
    # A step is computed again only where a kill came between it and its checkpoint.
    assert sum(steps.values()) - len(steps) <= NUM_WORKERS * 2 * num_kills


def test_several_tunes_at_once_make_one_study(tmp_path: Path, expected: dict[str, bytes]) -> None:
    names = ["first", "second", "third"]
    tunes = [start(tmp_path, name) for name in names]
    assert [end(tune) for tune in tunes] == [0, 0, 0]
    assert [read_files(tmp_path, name) for name in names] == [expected] * 3
    assert set(Counter(read_log(tmp_path)).values()) == {1}
    check_rows(make_plan(), tmp_path / "cache")


def test_terminated_tune_ends_its_workers(tmp_path: Path) -> None:
    tune = start(tmp_path)
    wait_for_steps(tmp_path, 1, tune)
    workers = list_workers(tune)
    assert workers
    tune.terminate()
    assert end(tune) == 128 + signal.SIGTERM
    wait_for_end(workers)
