"""A worker that the system kills while it works costs at most the file that it worked on.

The file is a named pipe, so that it is known when a worker has opened it, and which one.
"""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.made_media import Clip
from tests.preprocess.runs import digest_files, preprocess, read_quarantine, write_clips
from vatt.core.pool import CRASHED
from vatt.corpus.index import read_index
from vatt.corpus.manifest import write_manifest

NAMES = ["a.mp4", "b.mp4", "c.mp4"]


def kill_readers(pipe: Path, num_kills: int, before: Callable[[], object]) -> None:
    """Kill the processes that read a named pipe, one after the other, with -9."""
    for _ in range(num_kills):
        with pipe.open("wb"):  # returns when somebody reads
            readers = [child for child in psutil.Process().children() if is_reader(child, pipe)]
            before()
            for reader in readers:
                reader.send_signal(signal.SIGKILL)
                reader.wait(60)


def is_reader(process: psutil.Process, pipe: Path) -> bool:
    opened = Path(f"/proc/{process.pid}/fd").iterdir()
    return any(path.exists() and path.samefile(pipe) for path in opened)


def write(tmp_path: Path, num_kills: int, before: Callable[[], object]) -> dict[str, str]:
    """Preprocess with two workers, one of which is killed; return the digests of all files."""
    arguments = (tmp_path / "download/s/b.mp4", num_kills, before)
    killer = threading.Thread(target=kill_readers, args=arguments, daemon=True)
    killer.start()
    counts = preprocess(tmp_path / "download", tmp_path / "out", num_workers=2)
    killer.join(60)
    assert not killer.is_alive()
    assert counts["inputs"] == len(NAMES)
    return digest_files(tmp_path / "out")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe in the place of one of three clips."""
    rows = write_clips(tmp_path / "download", dict.fromkeys(NAMES, Clip(duration_s=1.0)))
    write_manifest(tmp_path / "download", rows)
    path = tmp_path / "download/s/b.mp4"
    path.rename(tmp_path / "kept")
    os.mkfifo(path)
    return path


def test_after_one_kill_nothing_is_lost(pipe: Path, tmp_path: Path) -> None:
    disturbed = write(tmp_path, 1, lambda: (tmp_path / "kept").replace(pipe))
    preprocess(tmp_path / "download", tmp_path / "undisturbed")
    assert disturbed == digest_files(tmp_path / "undisturbed")
    assert not read_quarantine(tmp_path / "out")


def test_the_second_kill_quarantines_the_file(pipe: Path, tmp_path: Path) -> None:
    write(tmp_path, 2, lambda: None)
    assert read_quarantine(tmp_path / "out") == {"b.mp4": CRASHED}
    assert Counter(read_index(tmp_path / "out")["video_id"]) == {"a.mp4": 1, "c.mp4": 1}
