from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.made_media import Clip, write_clip
from tests.preprocess.parameters import PARAMS
from vatt.core.pool import run_in_workers
from vatt.corpus.manifest import Annotation, ManifestEntry
from vatt.preprocess.fragments import key_of, write_fragment

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".ts", ".avi", ".ogg", ".wav", ".flac", ".mp3")
SOUND_ONLY = {".ogg", ".wav", ".flac", ".mp3"}


def test_keys_are_of_plain_characters_and_differ() -> None:
    names = ["a.mp4", "A.mp4", "ü 😀.mp4", "x/y.mp4", "\ud800.mp4", "y"]
    keys = [key_of(ManifestEntry("s", name, "train", path="x")) for name in names]
    keys.append(key_of(ManifestEntry("s/x", "y.mp4", "train", path="x")))
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in keys)
    assert len({*keys}) == len(names)  # a source's name holds no slash


def test_descriptions_of_parts_that_a_file_lacks_are_a_problem(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", Clip(duration_s=4.0))
    steps = [(0.5, 1.0, "Stir."), (3.5, 90.0, "Serve."), (50.0, 60.0, "Eat.")]
    annotations = tuple(Annotation("caption", None, *step) for step in steps)
    entry = ManifestEntry("s", "a.mp4", "test", path="a.mp4", annotations=annotations)
    (segment,) = write_fragment(tmp_path, tmp_path, PARAMS, entry).segments
    assert segment.descriptions == '["Stir."]'
    assert segment.problem == "2 of 3 descriptions are of parts that it lacks"


def change_bytes(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(len(content), size=rng.integers(1, 30)):
        content[place] = rng.integers(256)


def change_header(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(min(600, len(content)), size=rng.integers(1, 20)):
        content[place] = rng.integers(256)


def overwrite(content: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(len(content))
    content[start : start + 500] = rng.bytes(500)


def cut_out(content: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(len(content))
    del content[start : start + rng.integers(1, 3000)]


def cut_off(content: bytearray, rng: np.random.Generator) -> None:
    del content[rng.integers(1, len(content)) :]


DAMAGES: list[Callable[[bytearray, np.random.Generator], None]] = [
    *(change_bytes, change_header, overwrite, cut_out, cut_off)
]


def check_damaged_files(folder: Path, num_rounds: int) -> None:
    (folder / "fragments").mkdir()
    entries = []
    for suffix in SUFFIXES:
        clip = Clip(duration_s=2.0, video=suffix not in SOUND_ONLY)
        good = write_clip(folder / f"good{suffix}", clip).read_bytes()
        for number in range(num_rounds * len(DAMAGES)):
            content = bytearray(good)
            rng = np.random.default_rng([number, len(good)])
            DAMAGES[number % len(DAMAGES)](content, rng)
            path = folder / f"{number}{suffix}"
            path.write_bytes(content)
            entries.append(ManifestEntry("damaged", path.name, "train", path=path.name))
    work = partial(write_fragment, folder, folder / "fragments", PARAMS)
    outcomes = list(run_in_workers(work, entries, 2))
    for outcome in outcomes:
        assert outcome is None or bool(outcome.segments) != bool(outcome.reason)
        assert outcome is None or sum(row.num_frames for row in outcome.segments) < 100
    usable = sum(outcome is not None and bool(outcome.segments) for outcome in outcomes)
    assert len(entries) / 3 < usable < len(entries)


def test_damaged_files_are_used_or_refused(tmp_path: Path) -> None:
    check_damaged_files(tmp_path, 1)


@pytest.mark.slow
def test_many_damaged_files_are_used_or_refused(tmp_path: Path) -> None:
    check_damaged_files(tmp_path, 40)
