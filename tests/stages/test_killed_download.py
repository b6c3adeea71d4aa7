"""Kills with -9 at random moments: the same bytes, and nothing done is asked for again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.download.made_files import read_tree, zip_of
from tests.download.misbehaving_server import Record, content_of, serve

ROOT = Path(__file__).parents[2]
LARGE, LARGE_BYTES = "well/!large.mp4", 24 * 1024 * 1024  # early in the list
GONE = "refuse/404/a.mp4"
NAMES = [
    *(LARGE, GONE),
    *(f"well/{number:02}.mp4" for number in range(60)),
    *("half/a.mp4", "changed/a.mp4", "500_twice/a.mp4", "close/a.mp4", "redirect/a.mp4"),
]
ARCHIVE = "half/archive.zip"
MEMBERS = {f"{number}.wav": content_of(f"{number}", 30_000) for number in range(50)}

# Imports once, then forks a child for each line of standard input: a kill costs no new start.
STAGE = """
import json, os, sys
from vatt.core.files import write_json
from vatt.download import transfer
from vatt.params import DownloadParams, RunParams
from vatt.stages.download import main
from pathlib import Path
transfer.CHECKPOINT_BYTES = 256 * 1024  # what a kill costs, here
fetch = {"connections": 3, "connections_per_host": 3, "backoff_s": 0.01, "min_free_gb": 0.0}
source = {"kind": "urls", "name": "web", "addresses": "list.csv"}
download = DownloadParams.model_validate({"sources": [source], "fetch": fetch})
for _ in sys.stdin:
    if (child := os.fork()) == 0:
        sys.stdout = sys.stderr
        write_json(Path("metrics.json"), main(RunParams(seed=0), download))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Stage:
    """A process that runs the stage as often as it is told."""

    def __init__(self, address: str, folder: Path) -> None:
        rows = [f"{address}/{name},{name}" for name in (*NAMES, ARCHIVE)]
        (folder / "list.csv").write_text("\n".join(("address,name", *rows, "")))
        command = [sys.executable, "-c", STAGE]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, record: Record, kill_at: tuple[int, float] | None) -> int:
        """Run in a process of its own, perhaps killed some time after a request; return its end."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_at is not None:
            num_requests, more_s = kill_at
            while not record.requests:
                time.sleep(0.001)
            deadline_s = time.monotonic() + 1.0  # the last files may be the only ones
            while len(record.requests) < num_requests and time.monotonic() < deadline_s:
                time.sleep(0.001)
            time.sleep(more_s)
            os.kill(child, signal.SIGKILL)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def done_files(folder: Path) -> set[str]:
    out = folder / "data/download/web"
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def fetch_with_kills(folder: Path, address: str, record: Record, num_kills: int) -> list[int]:
    """Kill the stage again and again, then let it end; return how many files each one left."""
    generator = random.Random(num_kills)
    stage = Stage(address, folder)
    reached = []
    for _ in range(num_kills):
        done = done_files(folder)
        with record.lock:
            record.requests.clear()
        assert (
            stage.run(record, (generator.randint(1, 20), generator.random() * 0.1))
            == signal.SIGKILL
        )
        again = {path for path, _ in record.requests if path[1:] in done}
        assert not again, "was done, and is asked for again"
        reached.append(len(done_files(folder)))
    record.bytes_per_s = None
    done = done_files(folder)
    with record.lock:
        record.requests.clear()
    assert stage.run(record, None) == 0
    stage.close()
    assert not {path for path, _ in record.requests if path[1:] in done}
    return reached


@pytest.mark.parametrize(
    "num_kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_a_killed_stage_gives_the_same_bytes(tmp_path: Path, num_kills: int) -> None:
    with serve() as (address, record):
        record.files[f"/{LARGE}"] = content_of(LARGE, LARGE_BYTES)
        record.files[f"/{ARCHIVE}"] = zip_of(MEMBERS)
        # Slow enough that the large file outlives the kills.
        record.bytes_per_s = LARGE_BYTES / (1.2 * num_kills + 2.0)
        record.delay_s = 0.005 * num_kills
        reached = fetch_with_kills(tmp_path, address, record, num_kills)
        large = record.ranges(f"/{LARGE}")
        (tmp_path / "whole").mkdir()
        stage = Stage(address, tmp_path / "whole")
        assert stage.run(record, None) == 0
        stage.close()
    assert len(set(reached)) > 1  # not always at the same moment
    assert len(large) == 1
    assert large[0] is not None  # the rest of it
    found = read_tree(tmp_path / "data")
    assert found == read_tree(tmp_path / "whole/data")
    assert len(found) == len(NAMES) - 1 + len(MEMBERS) + len({"manifest", "ignored"})
    assert found[f"download/web/{LARGE}"] == content_of(LARGE, LARGE_BYTES)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["sources"]["web"]["failed"] == 1
    assert not list((tmp_path / ".cache/download/partial").rglob("*.partial"))
