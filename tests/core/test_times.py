"""What a stage writes down is what its parent sees of it, its children and failures included."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vatt.core.times import TIMES_PATH, read_times

# Works for a while itself, then lets a child work; fails where it is told so.
STAGE = """
import subprocess, sys, time
from vatt.core.times import record_time
work = "import time\\nwhile time.process_time() < 0.4: pass"
with record_time("finetune video"):
    exec(work)
    subprocess.run([sys.executable, "-c", work], check=True)
    time.sleep(0.3)
    sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 3])
def test_it_is_what_the_parent_sees(tmp_path: Path, code: int) -> None:
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", STAGE, str(code)]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
    wall_s = time.monotonic() - start_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == code
    (spent,) = read_times(tmp_path / TIMES_PATH)
    assert spent.stage == "finetune video"
    seen_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    # What ends the process is not counted.
    assert seen_s - 0.3 <= spent.cpu_s <= seen_s + 0.01
    assert spent.cpu_s >= 0.8
    assert 0.6 <= spent.wall_s <= wall_s
