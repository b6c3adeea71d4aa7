"""Where reading stops early, all that came before it is decoded: decoders hold frames back."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS, preprocess, read_video
from tests.reordered_media import Ramp, expected_greys, write_ramp
from vatt.corpus.index import read_index
from vatt.corpus.manifest import ManifestEntry, write_manifest
from vatt.media.decoding import FrameReader, best_stream, open_media

CONTENT = npt.NDArray[Any]


class StoppedContainer:
    """A container whose file cannot be read further after some packets."""

    def __init__(self, container: Any, num_packets: int) -> None:
        self.start_time, self.format = container.start_time, container.format
        self._container, self._num_packets = container, num_packets

    def demux(self) -> Iterator[Any]:
        for number, packet in enumerate(self._container.demux()):
            if number == self._num_packets:
                raise av.error.InvalidDataError(1, "Invalid data found")
            yield packet


def read_part(path: Path, kind: Any, num_packets: int) -> tuple[list[float], list[CONTENT]]:
    """Times and contents of the frames that come where reading stops."""
    problems: list[str] = []
    with open_media(path) as container:
        stream = best_stream(path, container, kind)
        reader = FrameReader(StoppedContainer(container, num_packets), stream, problems)
        frames = [(time_s, frame.to_ndarray()) for time_s, frame in reader.read()]
    assert problems == [f"{kind}: reading stopped: Invalid data found"]
    return [time_s for time_s, _ in frames], [content for _, content in frames]


@pytest.mark.parametrize("num_b_frames", [0, 4, 16])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_every_picture_that_was_read_is_shown(
    tmp_path: Path, codec: str, num_b_frames: int
) -> None:
    """Packets come in the order in which they need each other: each one is a picture."""
    path = tmp_path / "ramp.mkv"
    assert write_ramp(path, Ramp(codec, num_frames=50, num_b_frames=num_b_frames))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        times = [float(packet.pts * packet.time_base) for packet in packets]
    with av.open(str(path)) as container:
        whole = {
            round(float(frame.pts * frame.time_base), 3): frame.to_ndarray()
            for frame in container.decode(video=0)
        }
    if num_b_frames:
        assert times != sorted(times)
    for num_packets in (1, 2, 7, 20, 33, 49):
        shown_s, pictures = read_part(path, "video", num_packets)
        np.testing.assert_allclose(shown_s, sorted(times[:num_packets]), atol=1e-3)
        for time_s, picture in zip(shown_s, pictures, strict=True):
            np.testing.assert_array_equal(picture, whole[round(time_s, 3)])


@pytest.mark.parametrize("suffix", [".m4a", ".mp3", ".ogg", ".flac", ".webm"])
def test_all_sound_that_was_read_is_heard(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"tone{suffix}", Clip(video=False, num_channels=1))
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray() for frame in container.decode(audio=0)]
        whole = np.concatenate(decoded, axis=1)
    num_samples = 0
    for num_packets in (3, 10, 20):
        _, pieces = read_part(path, "audio", num_packets)
        heard = np.concatenate(pieces, axis=1)
        np.testing.assert_array_equal(heard, whole[:, : heard.shape[1]])
        with av.open(str(path)) as container:
            context = container.streams.audio[0].codec_context
            packets = list(islice(container.demux(audio=0), num_packets))
            frames = [frame for packet in (*packets, None) for frame in context.decode(packet)]
        assert heard.shape[1] == sum(frame.samples for frame in frames) > num_samples
        num_samples = heard.shape[1]


def test_a_file_that_cannot_be_read_to_its_end_keeps_its_pictures(tmp_path: Path) -> None:
    """The bytes from packet 40 on are noise, at which FFmpeg gives up this file."""
    (tmp_path / "s").mkdir()
    path, ramp = tmp_path / "s/noise.nut", Ramp(num_b_frames=8)
    assert write_ramp(path, ramp)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        numbers = [round(packet.pts * packet.time_base * ramp.rate_hz) for packet in packets[:40]]
    numbers = [number - min(numbers) for number in numbers]
    hole = packets[40].pos
    assert hole is not None
    path.write_bytes(path.read_bytes()[:hole] + np.random.default_rng(5).bytes(1000))
    write_manifest(tmp_path, [ManifestEntry("s", path.name, "train", path=f"s/{path.name}")])
    params = PARAMS.model_copy(update={"frame_rate_hz": 25.0, "video_crf": 5, "min_segment_s": 1.0})
    preprocess(tmp_path, tmp_path / "out", params)
    index = read_index(tmp_path / "out").sort_values("start_s")
    assert "reading stopped: Invalid data" in index["problem"].iloc[0]
    pictures = [read_video(tmp_path / "out", row).mean((1, 2, 3)) for _, row in index.iterrows()]
    shown = [max(n for n in numbers if n <= number) for number in range(max(numbers) + 1)]
    np.testing.assert_allclose(np.concatenate(pictures), expected_greys(ramp)[shown], atol=3)
