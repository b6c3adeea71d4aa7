"""The generated media are what they claim to be."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.made_media import VARIABLE_TIMES_S, Clip, write_clip, write_zoo


@pytest.fixture(scope="module")
def usable(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bool]:
    folder = tmp_path_factory.mktemp("zoo")
    return {folder / name: is_usable for name, is_usable in write_zoo(folder).items()}


@pytest.fixture
def zoo(usable: dict[Path, bool]) -> Path:
    return next(iter(usable)).parent


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_flash_and_click_stand_where_they_should(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", Clip(flash_s=(1.0, 2.2)))
    with av.open(str(path)) as container:
        frames = [
            (frame.time, frame.to_ndarray(format="gray").mean())
            for frame in container.decode(video=0)
        ]
    assert len(frames) == 75
    white = [time for time, mean in frames if mean > 200]
    assert white == pytest.approx([1.0, 2.2], abs=0.002)
    with av.open(str(path)) as container:
        parts = [
            (frame.time, frame.sample_rate, np.abs(frame.to_ndarray()[0]))
            for frame in container.decode(audio=0)
        ]
    loud = [time + np.argmax(part > 0.3) / rate for time, rate, part in parts if part.max() > 0.3]
    assert loud[0] == pytest.approx(1.0, abs=0.003)
    assert loud[-1] == pytest.approx(2.2, abs=0.012)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a"])
def test_sound_files(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"sound{suffix}", Clip(video=False))
    with av.open(str(path)) as container:
        assert not container.streams.video
        num_s = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert num_s == pytest.approx(3.0, abs=0.06)


def test_zoo_is_as_bad_as_described(usable: dict[Path, bool]) -> None:
    for path, is_usable in usable.items():
        try:
            with av.open(str(path), metadata_errors="ignore") as container:
                frames = sum(1 for _ in container.decode(*container.streams))
        except av.FFmpegError:
            frames = 0
        assert (frames > 0) == is_usable, path


def test_metadata_rotation_size_and_rate_of_the_zoo_are_odd(zoo: Path) -> None:
    with pytest.raises(UnicodeDecodeError), av.open(str(zoo / "bad_metadata.mp4")):
        pass
    with av.open(str(zoo / "rotated.mp4")) as container:
        frame = next(container.decode(video=0))
        assert abs(frame.rotation) == 90  # by the display matrix
        assert (frame.width, frame.height) == (64, 48)
    with av.open(str(zoo / "odd_size.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height) == (63, 47)
    with av.open(str(zoo / "variable_rate.mp4")) as container:
        times_s = [frame.time for frame in container.decode(video=0)]
    assert times_s == pytest.approx(list(VARIABLE_TIMES_S), abs=1e-4)
