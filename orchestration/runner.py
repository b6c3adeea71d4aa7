"""Run one stage with the same `dvc repro` as by hand, and end it with the process that asked."""

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from orchestration.pipeline import Pipeline

PROGRESS_EVERY_S = 10.0  # a progress bar redraws its line many times a second
SUPERVISOR = [sys.executable, "-m", "orchestration.supervisor"]
PATH_LOCKS = Path(".dvc/tmp/rwlock")  # which DVC process uses which paths
BROKEN_PATH_LOCKS = "Unable to read RWLock-file"


class Outcome(StrEnum):
    """What DVC did with a stage."""

    EXECUTED = "executed"
    RESTORED = "restored from the cache of earlier runs"
    UNCHANGED = "unchanged"
    FAILED = "failed"


class StaleUpstreamError(Exception):
    """The stage was not started, because a stage before it has to run first."""


@dataclass(frozen=True)
class StageRun:
    """The outcome of one stage and what it printed."""

    outcome: Outcome
    lines: tuple[str, ...]

    @property
    def started(self) -> bool:
        """True if DVC started the stage's command."""
        return any(re.match(r"Running stage '", line) for line in self.lines)


def run_stage(
    pipeline: Pipeline,
    name: str,
    log: Callable[[str], object],
    environment: Mapping[str, str] | None = None,
) -> StageRun:
    """Reproduce one stage, with more variables in its environment; its lines go to `log` at once.

    An exception raised meanwhile (a cancelled run) stops the whole process tree before it goes on.

    Raises:
        StaleUpstreamError: an earlier stage is not up to date, where DVC says "didn't change".
    """
    if names := pipeline.ancestors(name):
        code, lines = run_dvc(pipeline.root, ["status", "--json", *names], lambda _: None)
        if code:
            raise RuntimeError("dvc status failed:\n" + "\n".join(lines))
        changed = json.loads(next(line for line in lines if line.startswith("{")))
        if stale := [before for before in names if before in changed]:
            raise StaleUpstreamError(
                f"{name} was not started: {', '.join(stale)} must run first "
                "(inputs, code or parameters changed since, or the last run failed)"
            )
    code, lines = run_dvc(pipeline.root, ["repro", "--single-item", name], log, environment)
    run = StageRun(Outcome.FAILED if code else Outcome.EXECUTED, lines)
    if code or run.started:
        return run
    restored = any("is cached - skipping run" in line for line in lines)
    return StageRun(Outcome.RESTORED if restored else Outcome.UNCHANGED, lines)


def run_dvc(
    root: Path,
    arguments: list[str],
    log: Callable[[str], object],
    environment: Mapping[str, str] | None = None,
) -> tuple[int, tuple[str, ...]]:
    """Run DVC in the folder `root`; return its exit code and its lines, errors included."""
    # dvc.yaml says `python`: that of this process.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(
        [*SUPERVISOR, "dvc", "--wait-for-lock", *arguments],
        cwd=root,
        env=os.environ | dict(environment or {}) | {"PATH": path, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,  # the supervisor ends everything when this closes
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines = []
    with process:
        try:
            for line in _read_lines(process.stdout):
                log(line)
                lines.append(line)
        finally:
            process.stdin.close()
            process.wait()
    is_broken = any(BROKEN_PATH_LOCKS in line for line in lines) and (root / PATH_LOCKS).exists()
    if process.returncode and is_broken:
        # DVC writes the file in place, so one that was killed in mid-write blocks all after it.
        (root / PATH_LOCKS).unlink(missing_ok=True)
        log(f"{PATH_LOCKS} was cut short by a killed DVC process: removed it, starting again")
        return run_dvc(root, arguments, log, environment)
    return process.returncode, tuple(lines)


def _read_lines(stream: IO[bytes]) -> Iterator[str]:
    """Yield the lines as they come; of a progress bar only one state every PROGRESS_EVERY_S."""
    next_progress = time.monotonic()
    for line in io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline=""):
        if line.endswith("\r"):
            if time.monotonic() < next_progress:
                continue
            next_progress = time.monotonic() + PROGRESS_EVERY_S
        text = line.rstrip()
        if text:
            yield text
