"""Windows of parts of a file equal a slow loop over the frames of the file itself."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS, preprocess
from vatt.corpus.index import read_index
from vatt.corpus.manifest import ManifestEntry, write_manifest
from vatt.loading.loader import FixedWindows, Look
from vatt.loading.parts import PartReader, UncoveredError, cover_part
from vatt.loading.tasks import TaskInput
from vatt.params import ClipParams

# Every frame is another one: the square moves on for 15 s. Segments are of 4 s at 5 Hz.
CLIP = Clip(duration_s=14.5, width_px=320, height_px=64, flash_s=(7.2,), audio=False)
WINDOW = ClipParams(
    num_frames=4, frame_size_px=64, num_samples=9600, num_tokens=8, num_candidates=1
)
PLACES = (0.0, 0.3, 1.0)
RATE_HZ = PARAMS.frame_rate_hz


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_clip(folder / "download/s/a.mp4", CLIP)
    write_manifest(folder / "download", [ManifestEntry("s", "a.mp4", "test", path="s/a.mp4")])
    preprocess(folder / "download", folder / "out")
    return folder


def decode_slowly(path: Path) -> list[np.ndarray]:
    """Return the picture that is shown at each fifth of a second of a file, until it ends."""
    with av.open(str(path)) as container:
        frames = [(float(f.time), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    end_s = frames[-1][0] + 1 / CLIP.frame_rate_hz
    times_s = [number / RATE_HZ for number in range(math.ceil(end_s * RATE_HZ - 1e-6))]
    return [
        next(image for time_s, image in reversed(frames) if time_s <= at_s + 1e-3)
        for at_s in times_s
    ]


def number_windows_slowly(start_s: float, end_s: float, num_shown: int) -> list[list[int]]:
    """Return the frames of each window of a part, by their numbers in the file."""
    own = [n for n in range(num_shown) if start_s - 1e-6 <= n / RATE_HZ < end_s - 1e-6]
    windows = []
    for place in PLACES:
        first = round(place * max(0, len(own) - WINDOW.num_frames))
        window = own[first : first + WINDOW.num_frames]
        windows.append([window[n % len(window)] for n in range(WINDOW.num_frames)])
    return windows


@pytest.mark.parametrize(
    ("start_s", "end_s"),
    [
        (0.5, 3.5),  # in one segment
        (3.1, 5.0),  # over a border
        (2.6, 12.3),  # over all of them
        (4.0, 8.0),  # a segment
        (7.0, 8.2),
        (3.61, 4.1),  # shorter than a window, over a border
        (11.0, 15.4),  # the last second is not in the file
        (0.0, 14.5),
    ],
)
def test_windows_equal_those_of_the_original_file(
    corpus: Path, start_s: float, end_s: float
) -> None:
    shown = decode_slowly(corpus / "download/s/a.mp4")
    expected = number_windows_slowly(start_s, end_s, len(shown))
    rows = read_index(corpus / "out")
    assert len(rows) == 4
    pieces = cover_part(list(rows.itertuples()), start_s, end_s)
    part = rows.iloc[0].copy()
    part["pieces"], part["num_frames"] = pieces, sum(piece.num_frames for piece in pieces)
    looks = [Look(TaskInput("video", WINDOW), PLACES, num_crops=5)]
    (views,) = FixedWindows(PartReader(corpus / "out", WINDOW), [part], looks)[0]
    # Five squares side by side are the whole picture.
    crops = views.signals["video"].reshape(len(PLACES), 5, WINDOW.num_frames, 64, 64, 3)
    whole = np.concatenate([np.asarray(crops[:, n]) for n in range(5)], axis=3) * 127.5 + 127.5
    for window, numbers in zip(whole, expected, strict=True):
        for picture, number in zip(window, numbers, strict=True):
            differences = [np.abs(picture - other).mean() for other in shown]
            assert int(np.argmin(differences)) == number
            assert differences[number] < 2


class Row:
    """A row of the index of a segment of 4 s at 5 Hz."""

    def __init__(self, start_s: float, *, has_video: bool = True) -> None:
        self.start_s, self.end_s, self.has_video = start_s, start_s + 4.0, has_video
        self.frame_rate_hz, self.num_frames = 5.0, 20

    def __getattr__(self, name: str) -> Any:
        return 0


def test_frames_are_those_shown_from_start_to_end() -> None:
    rows = [Row(0.0), Row(4.0), Row(8.0)]
    for start_s, length_s in product(np.linspace(0, 11.9, 60), (0.01, 0.2, 1.0, 4.0, 7.3)):
        end_s = start_s + length_s
        last_s = max(end_s, start_s + 0.2)
        shown = [n for n in range(60) if start_s - 1e-6 <= n / 5 < last_s - 1e-6]
        if end_s > 13 or not shown:
            with pytest.raises(UncoveredError, match=r"no picture is stored from .* s"):
                cover_part(rows, start_s, end_s)
            continue
        pieces = cover_part(rows, start_s, end_s)
        assert sum(piece.num_frames for piece in pieces) == len(shown)
        assert [piece.first_frame for piece in pieces] == [shown[0] % 20] + [0] * (len(pieces) - 1)
        assert all(piece.first_frame + piece.num_frames == 20 for piece in pieces[:-1])


def test_a_hole_in_a_part_leaves_it_out() -> None:
    for rows in ([Row(0.0), Row(8.0)], [Row(0.0), Row(4.0, has_video=False), Row(8.0)]):
        assert sum(piece.num_frames for piece in cover_part(rows, 1.0, 4.9)) == 15
        assert sum(piece.num_frames for piece in cover_part(rows, 7.5, None)) == 20
        with pytest.raises(UncoveredError, match=r"stored from 4\.00 to 8\.00 s"):
            cover_part(rows, 1.0, 9.0)
        with pytest.raises(UncoveredError, match=r"stored from 4\.00 to 6\.00 s"):
            cover_part(rows, 1.0, 6.0)
        with pytest.raises(UncoveredError, match=r"stored from 5\.00 to 8\.00 s"):
            cover_part(rows, 5.0, 9.0)
        with pytest.raises(UncoveredError, match=r"stored from 20\.00 to 22\.00 s"):
            cover_part(rows, 20.0, 22.0)
    with pytest.raises(UncoveredError, match=r"its file is in quarantine\.jsonl"):
        cover_part([], 0.0, 1.0)
