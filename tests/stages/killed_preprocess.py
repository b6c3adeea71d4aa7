"""Runs the stage in child processes that are killed with -9, then to the end.

Usage: python -m tests.stages.killed_preprocess SEED NUM_KILLS, in the folder of a project. Prints a
line for each kill: how many files were finished. Children are forked after the slow imports.
"""

import multiprocessing
import random
import sys
import time
from pathlib import Path

import psutil

from vatt.params import load_params
from vatt.stages.preprocess import main

PARTIAL_DIR = Path("data/preprocess.partial")


def run() -> None:
    sys.stdout = sys.stderr = Path("output.log").open("a", encoding="utf-8")  # noqa: SIM115
    params = load_params(Path("params.yaml"))
    main(params.preprocess, params.launch)


def list_finished() -> dict[str, tuple[int, int]]:
    """Return the entries of the store; one that was made again is another file."""
    entries = {path: path.stat() for path in Path(".cache/preprocess/fragments").glob("*/*")}
    return {path.name: (entry.st_ino, entry.st_mtime_ns) for path, entry in entries.items()}


def kill_on_the_way(num_files: int, generator: random.Random) -> None:
    """Start the stage and kill it after it finished some more files, or copied some to shards."""
    fatal_count = min(len(list_finished()) + generator.randint(0, 2), num_files)
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    while child.is_alive() and not (PARTIAL_DIR / "shards").exists():
        time.sleep(0.001)
    is_over = (PARTIAL_DIR / "index.parquet").exists
    while child.is_alive() and len(list_finished()) < fatal_count and not is_over():
        time.sleep(0.001)
    time.sleep(generator.random() * generator.choice([0.01, 0.3]))
    workers = psutil.Process(child.pid).children(recursive=True) if child.is_alive() else []
    child.kill()
    child.join()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


if __name__ == "__main__":
    seed, num_kills = map(int, sys.argv[1:])
    generator, finished = random.Random(seed), list_finished()
    num_files = len(Path("data/download/manifest.jsonl").read_text(encoding="utf-8").splitlines())
    for _ in range(num_kills):
        kill_on_the_way(num_files, generator)
        assert finished.items() <= list_finished().items()  # nothing is done twice
        finished = list_finished()
        print(len(finished))
    run()
    assert finished.items() <= list_finished().items()
