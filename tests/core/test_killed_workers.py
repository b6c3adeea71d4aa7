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

from tests.made_media import Clip, write_clip
from tests.preprocess.parameters import PARAMS
from tests.preprocess.test_corpus import digest_files, read_quarantine
from vatt.core.pool import CRASHED
from vatt.corpus.index import read_index
from vatt.corpus.manifest import ManifestEntry, write_manifest
from vatt.preprocess.corpus import write_corpus

NAMES = ["a.mp4", "b.mp4", "c.mp4"]
CLIP = Clip(duration_s=1.0)


def write_downloads(folder: Path) -> Path:
    for name in NAMES:
        write_clip(folder / "download/s" / name, CLIP)
    rows = [ManifestEntry("s", name, "train", path=f"s/{name}") for name in NAMES]
    write_manifest(folder / "download", rows)
    return folder / "download"


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
    (tmp_path / "out").mkdir()
    arguments = (tmp_path / "download/s/b.mp4", num_kills, before)
    killer = threading.Thread(target=kill_readers, args=arguments, daemon=True)
    killer.start()
    counts = write_corpus(tmp_path / "download", tmp_path / "out", PARAMS, 2)
    killer.join(60)
    assert not killer.is_alive()
    assert counts["inputs"] == len(NAMES)
    return digest_files(tmp_path / "out")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe in the place of one of three clips."""
    path = write_downloads(tmp_path) / "s/b.mp4"
    path.rename(tmp_path / "kept")
    os.mkfifo(path)
    return path


def test_after_one_kill_nothing_is_lost(pipe: Path, tmp_path: Path) -> None:
    disturbed = write(tmp_path, 1, lambda: (tmp_path / "kept").replace(pipe))
    (tmp_path / "undisturbed").mkdir()
    write_corpus(tmp_path / "download", tmp_path / "undisturbed", PARAMS, 1)
    assert disturbed == digest_files(tmp_path / "undisturbed")
    assert not read_quarantine(tmp_path / "out")


def test_the_second_kill_quarantines_the_file(pipe: Path, tmp_path: Path) -> None:
    write(tmp_path, 2, lambda: None)
    assert read_quarantine(tmp_path / "out") == {"b.mp4": CRASHED}
    assert Counter(read_index(tmp_path / "out")["video_id"]) == {"a.mp4": 1, "c.mp4": 1}
