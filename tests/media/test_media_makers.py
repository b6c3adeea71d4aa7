"""The odd files of the zoo are as odd as they claim to be."""

from pathlib import Path

import av
import pytest

from tests.made_media import VARIABLE_TIMES_S, write_zoo


def test_metadata_rotation_size_and_rate_of_the_zoo_are_odd(tmp_path: Path) -> None:
    write_zoo(tmp_path)
    with pytest.raises(UnicodeDecodeError), av.open(str(tmp_path / "bad_metadata.mp4")):
        pass
    with av.open(str(tmp_path / "rotated.mp4")) as container:
        frame = next(container.decode(video=0))
        assert abs(frame.rotation) == 90  # by the display matrix
        assert (frame.width, frame.height) == (64, 48)
    with av.open(str(tmp_path / "odd_size.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height) == (63, 47)
    with av.open(str(tmp_path / "variable_rate.mp4")) as container:
        times_s = [frame.time for frame in container.decode(video=0)]
    assert times_s == pytest.approx(list(VARIABLE_TIMES_S), abs=1e-4)
