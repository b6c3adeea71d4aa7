"""The same pictures come out of every container, also where B-frames are coded ahead of time."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from tests.preprocess.runs import PARAMS, preprocess, read_quarantine, read_video
from tests.reordered_media import CODECS, SUFFIXES, Ramp, expected_greys, write_ramp
from vatt.corpus.index import read_index
from vatt.corpus.manifest import ManifestEntry, write_manifest

AT_25_HZ = PARAMS.model_copy(update={"frame_rate_hz": 25.0, "video_crf": 5})


RAMPS = {f"{codec}{suffix}": Ramp(codec) for suffix, codec in itertools.product(SUFFIXES, CODECS)}
SLOW = {f"slow{suffix}": Ramp(num_frames=20, rate_hz=Fraction(1)) for suffix in (".avi", ".wmv")}
"""Frames so far apart that the times that FFmpeg guesses jump back by 3 s."""
DAMAGED = {f"lost{suffix}": Ramp(key_frame_interval=25) for suffix in (".avi", ".mp4", ".wmv")}


def damage(path: Path) -> None:
    """Overwrite four packets of the second group of pictures whose bytes are nowhere else."""
    content = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0)][27:48]
    for packet in [packet for packet in packets if content.count(packet) == 1][:4]:
        content = content.replace(packet, bytes(len(packet)))
    path.write_bytes(content)


def find_messages(path: Path) -> list[str]:
    """Return what FFmpeg says while it decodes a file."""
    try:
        with av.logging.Capture() as messages, av.open(str(path)) as container:
            for _ in container.decode(video=0):
                pass
    except av.FFmpegError as error:
        return [str(error)]
    return [text for level, _, text in messages if level <= av.logging.WARNING]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("containers")
    (folder / "s").mkdir()
    ramps = RAMPS | SLOW | DAMAGED
    names = [name for name, ramp in ramps.items() if write_ramp(folder / "s" / name, ramp)]
    for name in DAMAGED:
        damage(folder / "s" / name)
    entries = [ManifestEntry("s", name, "train", path=f"s/{name}") for name in names]
    write_manifest(folder, entries)
    preprocess(folder, folder / "out", AT_25_HZ, num_workers=2)
    return folder


@pytest.fixture(scope="module")
def greys(corpus: Path) -> dict[str, npt.NDArray[np.float64]]:
    """The mean of every stored picture of every video."""
    index = read_index(corpus / "out").sort_values(["video_id", "start_s"])
    means: dict[str, list[float]] = {}
    for _, row in index.iterrows():
        pictures = read_video(corpus / "out", row)
        means.setdefault(row["video_id"], []).extend(pictures.mean((1, 2, 3)).tolist())
    return {name: np.array(values) for name, values in means.items()}


def test_every_picture_is_there_once_and_in_order(
    corpus: Path, greys: dict[str, npt.NDArray[np.float64]]
) -> None:
    assert read_quarantine(corpus / "out") == {}
    names = greys.keys() & RAMPS.keys()
    assert {Path(name).suffix for name in names} == set(SUFFIXES)
    assert {"libx264.avi", "mpeg4.avi", "libx264.wmv", "libx264.mxf", "libx264.vob"} <= names
    for name in names:
        assert len(greys[name]) == 75, name
        np.testing.assert_allclose(greys[name], expected_greys(Ramp()), atol=3, err_msg=name)


def test_a_file_that_ffmpeg_decodes_in_silence_has_no_problem(corpus: Path) -> None:
    problems = read_index(corpus / "out").groupby("video_id")["problem"].first()
    silent = [name for name in problems.index if not find_messages(corpus / "s" / name)]
    assert len(silent) > 0.8 * len(problems)
    assert problems[silent].isna().all(), problems[silent].dropna().to_dict()


@pytest.mark.parametrize("name", SLOW)
def test_slow_pictures_are_no_jump_of_time(
    greys: dict[str, npt.NDArray[np.float64]], name: str
) -> None:
    np.testing.assert_allclose(greys[name], np.repeat(expected_greys(SLOW[name]), 25), atol=3)


@pytest.mark.parametrize("name", DAMAGED)
def test_lost_packets_move_nothing_after_them(
    greys: dict[str, npt.NDArray[np.float64]], name: str
) -> None:
    expected = expected_greys(Ramp())
    assert len(greys[name]) == 75
    assert not np.allclose(greys[name], expected, atol=3)
    np.testing.assert_allclose(greys[name][:25], expected[:25], atol=3)
    np.testing.assert_allclose(greys[name][50:], expected[50:], atol=3)
