"""`embed` is killed at random moments, and then ends in the library of a run that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from tests.made_media import Clip, write_clip
from tests.stages.conftest import ROOT
from vatt.use.library import Library

NUM_FILES = 12


PROGRAM = """
import sys
from pathlib import Path
from vatt.use import embed

embed.COMMIT_S = 0.0  # so that kills fall between two commits, and into one
embed.embed(["films"], Path("data/pretrain"), Path(sys.argv[1]))
"""


def start(library: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, library]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def read_rows(library: str) -> list[dict[str, Any]]:
    Library.open(Path(library)).write_parquet(Path(f"{library}.parquet"))
    rows: list[dict[str, Any]] = pq.read_table(f"{library}.parquet").to_pylist()
    return rows


@pytest.mark.parametrize("num_kills", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("project")
def test_kills_change_nothing(num_kills: int) -> None:
    for number in range(NUM_FILES):
        write_clip(Path(f"films/{number}.mp4"), Clip(duration_s=3.0 + number, flash_s=(1.0,)))
    Path("films/broken.mp4").write_text("no media")
    began = time.monotonic()
    assert start("whole").wait() == 0
    usual_s = time.monotonic() - began
    draw = random.Random(num_kills)
    for _ in range(num_kills):
        process = start("killed")
        time.sleep(draw.uniform(0.3, 1.0) * usual_s)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        below = [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(Path.cwd())]
        psutil.wait_procs([one for one in below if one.pid != os.getpid()], timeout=30)
    assert start("killed").wait() == 0
    expected, rows = read_rows("whole"), read_rows("killed")
    assert len({row["path"] for row in expected}) == NUM_FILES + 1
    assert rows == expected
    assert not list(Path("killed").glob("partial"))
