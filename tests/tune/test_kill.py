"""kill -9 of tune and of its workers at random moments: the same study as in peace."""

import random
import signal
import time
from collections import Counter
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from tests.tune.campaign import make_slowly, read_files
from tests.tune.trainings import NUM_STEPS, Training, make_plan
from vatt.tune.study import NUMBER, Study

PATIENCE_S = 240.0
NUM_WORKERS = 2


FORK = get_context("fork")
"""Forked after the slow imports, so that many kills take seconds."""


def start(folder: Path, out: str = "out") -> ForkProcess:
    tune = FORK.Process(target=make_slowly, args=(folder, NUM_WORKERS, out))
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


def count_lines(folder: Path) -> int:
    path = folder / "log"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def wait_until(folder: Path, num_lines: int, tune: ForkProcess) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while count_lines(folder) < num_lines and tune.is_alive():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def kill_workers_once(folder: Path, generator: random.Random) -> None:
    """Kill one worker, wherever it is; the others and tune go on."""
    tune = start(folder)
    wait_until(folder, count_lines(folder) + generator.randint(1, 3), tune)
    time.sleep(generator.random() * 0.1)
    workers = list_workers(tune)
    if workers:
        generator.choice(workers).kill()
    time.sleep(generator.random() * 0.2)
    kill_tune(tune)


def kill_tune(tune: ForkProcess) -> None:
    """Kill tune; its workers end by themselves."""
    workers = list_workers(tune)
    tune.kill()
    tune.join(PATIENCE_S)
    _, alive = psutil.wait_procs(workers, PATIENCE_S)
    assert not alive


def kill_tune_once(folder: Path, generator: random.Random) -> None:
    tune = start(folder)
    wait_until(folder, count_lines(folder) + generator.randint(0, 3), tune)
    time.sleep(generator.random() * 0.2)
    kill_tune(tune)


@pytest.mark.parametrize(
    ("seed", "num_kills"),
    [(1, 1), pytest.param(2, 10, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_killed_studies_end_as_others(
    tmp_path: Path, expected: dict[str, bytes], seed: int, num_kills: int
) -> None:
    generator = random.Random(seed)
    for number in range(num_kills):
        (kill_workers_once, kill_tune_once)[number % 2](tmp_path, generator)
    assert end(start(tmp_path)) == 0
    assert read_files(tmp_path) == expected
    check_rows(tmp_path)
    finished = Counter(Training(tmp_path / "log").read_log())
    # A step is computed again only where a kill came between it and its checkpoint.
    assert sum(finished.values()) - len(finished) <= NUM_WORKERS * 2 * num_kills


def check_rows(folder: Path) -> None:
    """No trial is lost, left running or counted twice."""
    plan = make_plan()
    study = Study(plan, folder / "cache")
    rows = optuna.load_study(study_name=plan.name, storage=study.storage).trials
    states = Counter(row.state for row in rows)
    assert states[TrialState.RUNNING] == states[TrialState.WAITING] == 0
    finished = [row for row in rows if row.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert sorted(row.user_attrs[NUMBER] for row in finished) == list(range(plan.tune.num_trials))
    whole = [row for row in finished if row.state == TrialState.COMPLETE]
    assert all(set(row.intermediate_values) == set(range(1, NUM_STEPS + 1)) for row in whole)


def test_several_tunes_at_once_make_one_study(tmp_path: Path, expected: dict[str, bytes]) -> None:
    names = ["first", "second", "third"]
    tunes = [start(tmp_path, name) for name in names]
    assert [end(tune) for tune in tunes] == [0, 0, 0]
    assert [read_files(tmp_path, name) for name in names] == [expected] * 3
    assert set(Counter(Training(tmp_path / "log").read_log()).values()) == {1}
    check_rows(tmp_path)


def test_terminated_tune_ends_its_workers(tmp_path: Path) -> None:
    tune = start(tmp_path)
    wait_until(tmp_path, 1, tune)
    workers = list_workers(tune)
    assert workers
    tune.terminate()
    assert end(tune) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(workers, PATIENCE_S)
    assert not alive
