"""kill -9 at random moments, then again: the same files, and none that was done is asked for again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.sources.fetching.misbehaving_server import Record, content_of, serve

ROOT = Path(__file__).parents[4]
NAMES = [
    *(f"well/{number:02}" for number in range(60)),
    *("half/a", "changed/a", "500_twice/a", "close/a", "redirect/a", "refuse/404/a"),
]
LARGE, LARGE_BYTES = "well/large", 24 * 1024 * 1024

# Imports once, then forks a child for each line of standard input: a kill costs no new start.
FETCHER = """
import os, sys
from pathlib import Path
from vatt.data.sources.fetching import transfer
from vatt.data.sources.fetching.fetcher import fetch_all
from vatt.data.sources.fetching.remote_file import RemoteFile
from vatt.params import FetchParams
transfer.CHECKPOINT_BYTES = 256 * 1024  # what a kill costs, here
params = FetchParams(
    connections=3, connections_per_host=3, tries=5, backoff_s=0.01, stall_s=5.0, min_free_gb=0.0
)
address, *names = sys.argv[1:]
files = [RemoteFile(name, f"{address}/{name}") for name in names]
for _ in sys.stdin:
    if (child := os.fork()) == 0:
        problems = fetch_all(files, Path("out"), params)
        failed = {name for name, problem in problems.items() if problem}
        os._exit(0 if failed == {"refuse/404/a"} else 1)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Fetcher:
    """A process that fetches as often as it is told."""

    def __init__(self, address: str, folder: Path) -> None:
        command = [sys.executable, "-c", FETCHER, address, LARGE, *NAMES]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, record: Record, kill_after_s: float | None) -> int:
        """Fetch in a process of its own, perhaps killed after its first request; return its end."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_after_s is not None:
            while not record.requests:
                time.sleep(0.001)
            time.sleep(kill_after_s)
            os.kill(child, signal.SIGKILL)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def done_files(folder: Path) -> set[str]:
    out = folder / "out"
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def fetch_with_kills(folder: Path, address: str, record: Record, num_kills: int) -> list[int]:
    """Kill a fetch again and again, then let it end; return how many files each one left."""
    generator = random.Random(num_kills)
    fetcher = Fetcher(address, folder)
    reached = []
    for _ in range(num_kills):
        done = done_files(folder)
        with record.lock:
            record.requests.clear()
        assert fetcher.run(record, generator.uniform(0.0, 0.5)) == signal.SIGKILL
        again = {path for path, _ in record.requests if path[1:] in done}
        assert not again, "was done, and is asked for again"
        reached.append(len(done_files(folder)))
    record.bytes_per_s = None
    done = done_files(folder)
    with record.lock:
        record.requests.clear()
    assert fetcher.run(record, None) == 0
    fetcher.close()
    assert not {path for path, _ in record.requests if path[1:] in done}
    return reached


@pytest.mark.parametrize(
    "num_kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_killed_fetches_give_the_same_files(tmp_path: Path, num_kills: int) -> None:
    with serve() as (address, record):
        record.files[f"/{LARGE}"] = content_of(LARGE, LARGE_BYTES)
        # Slow enough that the large file outlives the kills.
        record.bytes_per_s = LARGE_BYTES / (0.5 * num_kills + 1.5)
        record.delay_s = 0.005 * num_kills
        reached = fetch_with_kills(tmp_path, address, record, num_kills)
        served = dict(record.files)
        large = record.ranges(f"/{LARGE}")
    assert reached == sorted(reached)
    assert len(set(reached)) > 1  # not always at the same moment
    assert done_files(tmp_path) == {LARGE, *NAMES} - {"refuse/404/a"}
    for name in done_files(tmp_path):
        path = "/well/redirect/a" if name == "redirect/a" else f"/{name}"
        assert (tmp_path / "out" / name).read_bytes() == served[path], name
    assert len(large) == 1
    assert large[0] is not None  # the rest of it
    assert list((tmp_path / ".cache/download/partial/out").iterdir()) == []
