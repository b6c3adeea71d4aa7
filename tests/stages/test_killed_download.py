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
from tests.stages.conftest import ROOT

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
    """A process that runs the stage in a folder, as often as it is told."""

    def __init__(self, address: str, record: Record, folder: Path) -> None:
        self.folder, self.record = folder, record
        rows = [f"{address}/{name},{name}" for name in (*NAMES, ARCHIVE)]
        (folder / "list.csv").write_text("\n".join(("address,name", *rows, "")))
        self._process = subprocess.Popen(
            [sys.executable, "-c", STAGE], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def list_done(self) -> set[str]:
        out = self.folder / "data/download/web"
        return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}

    def run(self, kill_at: tuple[int, float] | None = None) -> int:
        """Run in a process of its own, perhaps killed some time after a request; return its end.

        Nothing that is done is asked for again.
        """
        done = self.list_done()
        with self.record.lock:
            self.record.requests.clear()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_at is not None:
            num_requests, more_s = kill_at
            while not self.record.requests:
                time.sleep(0.001)
            deadline_s = time.monotonic() + 1.0  # the last files may be the only ones
            while len(self.record.requests) < num_requests and time.monotonic() < deadline_s:
                time.sleep(0.001)
            time.sleep(more_s)
            os.kill(child, signal.SIGKILL)
        end = int(self._process.stdout.readline())
        assert not {path for path, _ in self.record.requests if path[1:] in done}
        return end

    def finish(self) -> None:
        assert self.run() == 0
        self._process.communicate()


@pytest.mark.parametrize(
    "num_kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_a_killed_stage_gives_the_same_bytes(tmp_path: Path, num_kills: int) -> None:
    generator, reached = random.Random(num_kills), set()
    (tmp_path / "whole").mkdir()
    with serve() as (address, record):
        record.files[f"/{LARGE}"] = content_of(LARGE, LARGE_BYTES)
        record.files[f"/{ARCHIVE}"] = zip_of(MEMBERS)
        # Slow enough that the large file outlives the kills.
        record.bytes_per_s = LARGE_BYTES / (1.2 * num_kills + 2.0)
        record.delay_s = 0.005 * num_kills
        stage = Stage(address, record, tmp_path)
        for _ in range(num_kills):
            assert stage.run((generator.randint(1, 20), generator.random() * 0.1)) == signal.SIGKILL
            reached.add(len(stage.list_done()))
        record.bytes_per_s = None
        stage.finish()
        large = record.ranges(f"/{LARGE}")
        Stage(address, record, tmp_path / "whole").finish()
    assert len(reached) > 1  # not always at the same moment
    assert len(large) == 1
    assert large[0] is not None  # the rest of it
    found = read_tree(tmp_path / "data")
    assert found == read_tree(tmp_path / "whole/data")
    assert len(found) == len(NAMES) - 1 + len(MEMBERS) + len({"manifest", "ignored"})
    assert found[f"download/web/{LARGE}"] == content_of(LARGE, LARGE_BYTES)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["sources"]["web"]["failed"] == 1
    assert not list((tmp_path / ".cache/download/partial").rglob("*.partial"))
