from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS
from vatt.loading.clips import View, decode_video
from vatt.media.decoding import MediaError
from vatt.media.video import Picture, encode_video
from vatt.preprocess.cuts import cut_file


def first_picture(path: Path) -> Picture:
    picture: Picture = next(cut_file(path, PARAMS, [])).hold_pictures()[0]
    return picture


SIGNS = list(product((1, -1), repeat=2))


@pytest.mark.parametrize(
    "matrix", [*((a, 0, 0, d) for a, d in SIGNS), *((0, b, c, 0) for b, c in SIGNS)]
)
def test_the_display_matrix_is_honoured(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    clip = Clip(duration_s=0.2, audio=False, width_px=64, height_px=64, flash_s=())
    path = write_clip(tmp_path / "clip.mp4", clip)
    before = first_picture(path)
    a, b, c, d = (value << 16 for value in matrix)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    entries = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    content[place : place + 36] = b"".join(value.to_bytes(4, signed=True) for value in entries)
    path.write_bytes(content)
    after = first_picture(path)
    expected = np.zeros_like(before)
    for y in range(64):
        for x in range(64):  # from the middle, so that turning needs no shift
            u, v = 2 * x - 63, 2 * y - 63
            to_x = (matrix[0] * u + matrix[2] * v + 63) // 2
            to_y = (matrix[1] * u + matrix[3] * v + 63) // 2
            expected[to_y, to_x] = before[y, x]
    np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize(
    ("width_px", "height_px", "shape"),
    [(63, 47, (64, 86)), (47, 63, (86, 64)), (16, 16, (64, 64)), (320, 180, (64, 114))],
)
def test_the_short_side_becomes_what_is_asked(
    width_px: int, height_px: int, shape: tuple[int, int], tmp_path: Path
) -> None:
    clip = Clip(duration_s=0.2, width_px=width_px, height_px=height_px, audio=False)
    assert first_picture(write_clip(tmp_path / "clip.mp4", clip)).shape[:2] == shape


def write_colours(path: Path, pixel_format: str, full_range: bool) -> npt.NDArray[np.uint8]:
    """Write a file of four plain quarters and return their colours."""
    colours = np.array([[200, 40, 40], [40, 180, 60], [60, 60, 220], [230, 230, 20]], np.uint8)
    image = colours.reshape(2, 2, 3).repeat(32, axis=0).repeat(32, axis=1)
    color_range = 2 if full_range else 1
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixel_format
        stream.codec_context.color_range = color_range
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame = frame.reformat(
                format=pixel_format, dst_colorspace=5, dst_color_range=color_range
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return colours


@pytest.mark.parametrize(
    ("pixel_format", "full_range"),
    [("yuv420p", False), ("yuv420p", True), ("yuv420p10le", False), ("yuv444p", False)],
)
def test_colours_survive(pixel_format: str, full_range: bool, tmp_path: Path) -> None:
    colours = write_colours(tmp_path / "clip.mp4", pixel_format, full_range)
    picture = first_picture(tmp_path / "clip.mp4").astype(int)
    seen = [picture[row, column] for row in (16, 48) for column in (16, 48)]
    np.testing.assert_allclose(seen, colours, atol=3)


def test_storing_makes_pictures_neither_darker_nor_brighter() -> None:
    levels = np.linspace(20, 235, 64).round().astype(np.uint8)
    greys = np.tile(levels[:, None, None], (3, 1, 64, 3))
    stored = encode_video(greys, PARAMS.model_copy(update={"video_crf": 1}))
    decoded = decode_video(stored, 0, 3, View((64, 64)))
    assert np.abs((decoded.astype(float) - greys).mean((0, 1, 2))).max() < 0.3


def test_a_very_long_picture_is_refused(tmp_path: Path) -> None:
    clip = Clip(duration_s=0.2, width_px=640, height_px=32, audio=False)
    with pytest.raises(MediaError, match="640 x 32"):
        first_picture(write_clip(tmp_path / "clip.mp4", clip))


def test_pixels_that_are_not_square_become_square(tmp_path: Path) -> None:
    clip = Clip(duration_s=0.2, width_px=64, height_px=64, audio=False)
    source = write_clip(tmp_path / "in.mkv", clip)
    path = tmp_path / "out.mkv"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for frame in old.decode(video=0):
            new.mux(stream.encode(frame))
        new.mux(stream.encode(None))
    assert first_picture(path).shape == (64, 96, 3)


@pytest.fixture(scope="module")
def numbered() -> npt.NDArray[np.uint8]:
    """Thirty frames, each of another grey."""
    levels = np.arange(30, 240, 7).astype(np.uint8)
    return np.repeat(levels, 32 * 48 * 3).reshape(30, 32, 48, 3)


@pytest.mark.parametrize("frame_rate_hz", [5.0, 12.5, 29.97, 30.0])
@pytest.mark.parametrize(("first_frame", "num_frames"), [(0, 30), (0, 1), (4, 8), (5, 8), (29, 1)])
def test_any_frames_of_a_stored_video_can_be_read(
    numbered: npt.NDArray[np.uint8], frame_rate_hz: float, first_frame: int, num_frames: int
) -> None:
    data = encode_video(numbered, PARAMS.model_copy(update={"frame_rate_hz": frame_rate_hz}))
    frames = decode_video(data, first_frame, num_frames, View((32, 48)))
    expected = numbered[first_frame : first_frame + num_frames]
    np.testing.assert_allclose(frames.astype(int), expected.astype(int), atol=3)


def test_a_stored_video_is_scaled_while_it_is_read(numbered: npt.NDArray[np.uint8]) -> None:
    frames = decode_video(encode_video(numbered, PARAMS), 10, 2, View((40, 52)))
    assert frames.shape == (2, 40, 52, 3)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [100, 107], atol=3)


def test_frames_beyond_the_end_are_an_error(numbered: npt.NDArray[np.uint8]) -> None:
    data = encode_video(numbered, PARAMS)
    with pytest.raises(MediaError, match="ends at frame 30"):
        decode_video(data, 25, 6, View((32, 48)))
    with pytest.raises(MediaError, match="cannot be decoded"):
        decode_video(data[: len(data) // 2], 0, 8, View((32, 48)))
