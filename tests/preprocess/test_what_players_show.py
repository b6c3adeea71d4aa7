"""Odd files that every player shows in full come out in full, and without a problem."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest

from tests.made_media import Clip, make_frames, write_clip
from tests.preprocess.runs import PARAMS, preprocess, read_quarantine, read_video
from tests.reordered_media import Ramp, expected_greys, write_ramp
from vatt.corpus.index import read_index
from vatt.corpus.manifest import ManifestEntry, write_manifest

SOUND_S = 30.0
SLIDES_S = (0.0, 1.0, 26.0, 29.0)


def write_slides(path: Path) -> None:
    """Write four pictures, one of which stays for 25 s, and sound."""
    clip = Clip(duration_s=SOUND_S, frame_times_s=SLIDES_S, flash_s=(1.0, 26.0))
    write_clip(path, clip)


def write_silent_slides(path: Path) -> None:
    write_clip(path, Clip(frame_times_s=SLIDES_S, flash_s=(), audio=False))


def write_hole(path: Path) -> None:
    """Write a film that lacks 40 s of picture and sound, as a receiver writes it."""
    source = write_clip(path.with_suffix(".source.mkv"), Clip(duration_s=6.0))
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = [new.add_stream_from_template(stream) for stream in old.streams]
        for packet in old.demux():
            if packet.dts is None or packet.pts is None:
                continue
            if packet.pts * packet.time_base >= 3:
                packet.pts += round(40 / packet.time_base)
                packet.dts += round(40 / packet.time_base)
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    source.unlink()


def write_repeats(path: Path) -> None:
    """Write a film in which packets without content repeat frames 20 to 29 and 65 to 74."""
    source = path.with_suffix(".source.mkv")
    assert write_ramp(source, Ramp("mpeg4", num_b_frames=0))
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        (template,) = old.streams.video
        stream = new.add_stream_from_template(template)
        for number, packet in enumerate(old.demux(template)):
            if packet.dts is None:
                continue
            if 20 <= number < 30 or number >= 65:
                empty = av.Packet(0)
                empty.pts, empty.dts = packet.pts, packet.dts
                empty.time_base, empty.duration = packet.time_base, packet.duration
                empty.stream = stream
                new.mux(empty)
            else:
                packet.stream = stream
                new.mux(packet)
    source.unlink()


def write_second_track(path: Path) -> None:
    """Write a film of 3 s with a second track of sound of 20 s, as a commentary may be."""
    clips = [Clip(), Clip(duration_s=20.0, video=False)]
    sources = [path.with_suffix(f".source{number}{path.suffix}") for number in range(2)]
    with ExitStack() as stack:
        new = stack.enter_context(av.open(str(path), "w"))
        packets = []
        for source, clip in zip(sources, clips, strict=True):
            old = stack.enter_context(av.open(str(write_clip(source, clip))))
            targets = [new.add_stream_from_template(stream) for stream in old.streams]
            for packet in old.demux():
                if packet.dts is not None:
                    time_s = packet.dts * packet.time_base
                    packet.stream = targets[packet.stream.index]
                    packets.append((time_s, packet))
        for _, packet in sorted(packets, key=lambda pair: pair[0]):
            new.mux(packet)
    for source in sources:
        source.unlink()


def write_cover(path: Path, codec: str, pixel_format: str, clip: Clip) -> None:
    """Write a clip with a large picture as its first track that is not flagged as a cover."""
    source = write_clip(path.with_suffix(f".source{path.suffix}"), clip)
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        cover: Any = new.add_stream(codec, rate=25)
        cover.width, cover.height, cover.pix_fmt = 320, 240, pixel_format
        streams = [new.add_stream_from_template(stream) for stream in old.streams]
        picture = next(make_frames(Clip(width_px=320, height_px=240)))
        for packet in [*cover.encode(picture.reformat(format=pixel_format)), *cover.encode(None)]:
            new.mux(packet)
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    source.unlink()


SONG = Clip(video=False)
FILM = Clip()
COVERS = {
    "song.mkv": ("mjpeg", "yuvj420p", SONG),
    "song.mov": ("png", "rgb24", SONG),
    "film.mkv": ("mjpeg", "yuvj420p", FILM),
    "film.mov": ("png", "rgb24", FILM),
}


@pytest.fixture(scope="module")
def out_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("players")
    for suffix in (".mp4", ".mkv"):
        write_slides(folder / f"slides{suffix}")
        write_second_track(folder / f"commentary{suffix}")
    write_silent_slides(folder / "silent slides.mp4")
    write_hole(folder / "hole.mkv")
    write_repeats(folder / "repeats.nut")
    for name, (codec, pixel_format, clip) in COVERS.items():
        write_cover(folder / name, codec, pixel_format, clip)
    write_clip(folder / "motion jpeg.mkv", Clip(video_codec="mjpeg"))
    names = sorted(path.name for path in folder.iterdir())
    write_manifest(folder, [ManifestEntry("s", name, "train", path=name) for name in names])
    params = PARAMS.model_copy(update={"frame_rate_hz": 25.0})
    preprocess(folder, folder / "out", params, num_workers=2)
    assert read_quarantine(folder / "out") == {}
    return folder / "out"


@pytest.fixture(scope="module")
def index(out_dir: Path) -> pd.DataFrame:
    return read_index(out_dir).sort_values("start_s").set_index("video_id")


def test_nothing_of_it_is_a_problem(index: pd.DataFrame) -> None:
    assert index["problem"].dropna().to_dict() == {}


@pytest.mark.parametrize("name", ["slides.mp4", "slides.mkv", "silent slides.mp4"])
def test_a_picture_stays_until_the_next_one(index: pd.DataFrame, name: str) -> None:
    rows = index.loc[name]
    assert rows["has_video"].all()
    assert rows["video_duration_s"].sum() == pytest.approx(29.0, abs=1.1)
    # Between 1 and 26 s, and from 26 to 29 s, nothing changes.
    assert (rows[rows["start_s"].between(4, 20)]["frozen_rate"] == 1).all()
    starts = rows["start_s"].to_numpy()
    np.testing.assert_allclose(np.diff(starts), 4.0, atol=1e-6)


def test_what_lacks_picture_and_sound_is_a_hole(index: pd.DataFrame) -> None:
    """The picture before it is held for some seconds, but is no material of its own."""
    rows = index.loc["hole.mkv"]
    assert rows["end_s"].max() == pytest.approx(46.0, abs=0.1)
    covered_s = (rows["end_s"] - rows["start_s"]).sum()
    assert 6 <= covered_s <= 6 + 2 * 4 + 10


def test_packets_without_content_repeat_the_frame_before(
    index: pd.DataFrame, out_dir: Path
) -> None:
    greys = read_video(out_dir, index.loc[["repeats.nut"]].iloc[0]).mean((1, 2, 3))
    expected = expected_greys(Ramp())
    expected[20:30], expected[65:75] = expected[19], expected[64]
    np.testing.assert_allclose(greys, expected, atol=4)


@pytest.mark.parametrize("name", ["commentary.mp4", "commentary.mkv"])
def test_another_track_does_not_make_the_file_longer(index: pd.DataFrame, name: str) -> None:
    assert index.loc[name]["end_s"] == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("name", COVERS)
def test_a_cover_without_a_flag_is_no_picture(index: pd.DataFrame, name: str) -> None:
    row = index.loc[name]
    assert row["has_audio"]
    assert row["has_video"] == (COVERS[name][2] is FILM)
    assert row["height_px"] == (64 if row["has_video"] else 0)


def test_a_film_of_images_is_one(index: pd.DataFrame) -> None:
    assert index.loc["motion jpeg.mkv"]["video_duration_s"] == pytest.approx(3.0, abs=0.05)
