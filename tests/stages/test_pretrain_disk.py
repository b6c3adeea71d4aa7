"""The stage on a full disk: it says so, leaves nothing running, and goes on with more room."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.launch.cluster import run
from tests.stages.campaign import (
    NUM_STEPS,
    PATIENCE_S,
    expect_finished,
    expect_none_left,
    read_curve,
    read_errors,
    start_with,
)

DIRECTORY = Path(".cache/pretrain")


@contextmanager
def small_disk(size: str) -> Iterator[None]:
    """Have the checkpoints on a disk of a size such as 24m; skips where that is not allowed."""
    DIRECTORY.mkdir(parents=True)
    try:
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(DIRECTORY))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"disks cannot be mounted here: {error.stderr.strip()}")
    try:
        yield
    finally:
        run("umount", "--lazy", str(DIRECTORY))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_full_disk_is_told_and_training_goes_on_with_more_room(project: Path) -> None:
    """There is room for one checkpoint (16 MB), but not for the next one beside it."""
    with small_disk("24m"):
        process = start_with(NUM_STEPS, supervision={"max_restarts": 0})
        assert process.wait(PATIENCE_S) == 1
        errors = read_errors()
        assert "No space left on device" in errors
        assert f"{socket.gethostname()}: a checkpoint could not be written: {DIRECTORY}" in errors
        expect_none_left()
        (whole,) = DIRECTORY.glob("*/step-*/complete.json")
        assert whole.parent.name == "step-00000005"
        before = read_curve()
        run("mount", "-o", "remount,size=1g", str(DIRECTORY))
        expect_finished(start_with(NUM_STEPS, supervision={"max_restarts": 0}))
        assert read_curve()[:5] == before[:5]
