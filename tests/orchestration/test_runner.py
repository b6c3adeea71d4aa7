"""Stages run as by hand, and nothing of them outlives the process that asked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from orchestration.pipeline import load_pipeline
from orchestration.runner import SUPERVISOR, Outcome, StaleUpstreamError, run_stage
from tests.orchestration.miniature import out_hash, repro_by_hand, set_params, wait_until

ASKER = """
from pathlib import Path
from orchestration.pipeline import load_pipeline
from orchestration.runner import run_stage
run_stage(load_pipeline(Path.cwd()), "download", lambda line: print(line, flush=True))
"""


def run(root: Path, stage: str) -> Outcome:
    return run_stage(load_pipeline(root), stage, lambda _: None).outcome


def processes_in(folder: Path) -> list[psutil.Process]:
    """Return the processes whose current folder is `folder`: every descendant inherits it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def test_outcomes(miniature: Path) -> None:
    assert run(miniature, "download") is Outcome.EXECUTED
    version = out_hash(miniature, "download")
    assert run(miniature, "download") is Outcome.UNCHANGED
    (miniature / "dvc.lock").unlink()
    assert run(miniature, "download") is Outcome.RESTORED
    assert out_hash(miniature, "download") == version
    set_params(miniature, "download", exit=3)
    assert run(miniature, "download") is Outcome.FAILED


def test_lines_arrive_while_the_stage_runs(miniature: Path) -> None:
    set_params(miniature, "download", says="héllo 🎬", sleep_s=0.1)
    times = {}
    run_stage(
        load_pipeline(miniature), "download", lambda line: times.update({line: time.monotonic()})
    )
    said = times["stage download says héllo 🎬"]
    assert said - times["Running stage 'download':"] >= 0.1


def test_progress_bar_is_thinned_out(miniature: Path) -> None:
    set_params(miniature, "download", progress=1000)
    lines = run_stage(load_pipeline(miniature), "download", lambda _: None).lines
    assert sum(line.isdigit() for line in lines) == 1
    assert any("stage download says" in line for line in lines)


def test_stale_upstream_is_refused(miniature: Path) -> None:
    with pytest.raises(StaleUpstreamError, match="validate was not started: download, preprocess"):
        run(miniature, "validate")
    repro_by_hand(miniature, "preprocess")
    assert run(miniature, "validate") is Outcome.EXECUTED
    set_params(miniature, "download", says="something new")
    with pytest.raises(StaleUpstreamError, match="validate was not started: download must"):
        run(miniature, "validate")


@pytest.mark.parametrize(
    ("number", "children"), [(signal.SIGINT, "polite"), (signal.SIGKILL, "ignore SIGTERM")]
)
def test_nothing_outlives_the_asker(number: signal.Signals, children: str, miniature: Path) -> None:
    """One child is in the stage's session, one in its own, one has lost its parent."""
    set_params(miniature, "download", children=children, sleep_s=600)
    asker = subprocess.Popen(
        [sys.executable, "-c", ASKER], cwd=miniature, stdout=subprocess.PIPE, text=True
    )
    assert asker.stdout is not None
    assert any(line == "ready\n" for line in asker.stdout)
    cmdlines = [" ".join(process.cmdline()) for process in processes_in(miniature)]
    assert sum("time.sleep(600)" in line for line in cmdlines) == 2
    assert sum(line == "sleep 600" for line in cmdlines) == 1
    os.kill(asker.pid, number)
    wait_until(lambda: not processes_in(miniature), 20, lambda: processes_in(miniature))
    asker.communicate()

    set_params(miniature, "download", children=None, sleep_s=0)
    assert run(miniature, "download") is Outcome.EXECUTED


def test_leftover_children_of_a_finished_stage_are_stopped(miniature: Path) -> None:
    set_params(miniature, "download", children="polite")
    assert run(miniature, "download") is Outcome.EXECUTED
    assert processes_in(miniature) == []


@pytest.mark.parametrize("content", ["", '{"write": {'])
def test_lock_file_cut_short_by_a_killed_run(content: str, miniature: Path) -> None:
    (miniature / ".dvc/tmp").mkdir()
    (miniature / ".dvc/tmp/rwlock").write_text(content)
    lines: list[str] = []
    assert run_stage(load_pipeline(miniature), "download", lines.append).outcome is Outcome.EXECUTED
    assert any(".dvc/tmp/rwlock was cut short" in line for line in lines)


def test_cancelled_command_may_finish_what_it_writes(miniature: Path) -> None:
    """The command ends by itself once its child is gone; a signal to it would lose the file."""
    script = """
import pathlib, subprocess
pathlib.Path("ready").touch()
code = subprocess.call(["sleep", "600"])
pathlib.Path("done").write_text(str(code))
"""
    supervisor = subprocess.Popen(
        [*SUPERVISOR, sys.executable, "-c", script],
        cwd=miniature,
        stdin=subprocess.PIPE,
    )
    wait_until((miniature / "ready").exists, 20)
    supervisor.communicate()
    assert (miniature / "done").read_text() == str(-signal.SIGTERM)
