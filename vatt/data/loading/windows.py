"""Windows of stored videos: a few frames, or a box of them, decoded and scaled (VATT section 4.2)."""

from io import BytesIO
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from vatt.data.media import MediaError
from vatt.data.video import BILINEAR, Box

Plane = UInt8[np.ndarray, "_ _"]
MARGIN_PX = 8
"""Of what is cut out before colours are converted; even."""


def decode_video(
    data: bytes,
    first_frame: int,
    num_frames: int,
    size_px: tuple[int, int],
    box: Box | None = None,
    part: Box | None = None,
) -> UInt8[np.ndarray, "T H W 3"]:
    """Return frames of a stored video in RGB, scaled to `size_px` (height, width).

    With `box`, it is this box of the stored picture that is scaled; with `part`, a part of what was
    scaled is returned. Only what these frames need is decoded: from the key frame before them. In
    memory the colours lie apart, so that the transposed array (T 3 H W) is contiguous.

    Raises:
        MediaError: the video is damaged or ends too early.
    """
    part = part or Box(0, 0, *size_px)
    planes = np.empty((num_frames, 3, part.height_px, part.width_px), np.uint8)
    number = 0
    scaler = _WindowScaler(size_px, box)
    try:
        with av.open(BytesIO(data), format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            first_pts = round((first_frame - 0.5) / stream.average_rate / stream.time_base)
            if first_frame:
                container.seek(first_pts, stream=stream)
            for frame in container.decode(stream):
                if frame.pts < first_pts:
                    continue
                for target, plane in zip(planes[number], scaler.scale(frame), strict=True):
                    target[:] = _cut(plane, part)
                number += 1
                if number == num_frames:
                    break
    except (FFmpegError, IndexError) as error:
        raise MediaError(f"the video cannot be decoded: {error}") from error
    if number < num_frames:
        raise MediaError(f"the video ends at frame {first_frame + number}")
    return planes.transpose(0, 2, 3, 1)


class _WindowScaler:
    """Scales the frames of one video, or a box of them; what it prepares for a size is kept."""

    def __init__(self, size_px: tuple[int, int], box: Box | None) -> None:
        self._height_px, self._width_px = size_px
        self._box = box
        self._to_rgb, self._to_size = VideoReformatter(), VideoReformatter()
        self._crop: Any = None

    def scale(self, frame: Any) -> list[Plane]:
        """Return the red, the green and the blue plane."""
        if self._box is not None:
            frame = self._cut_box(frame, self._box)
        return _view_rgb(self._reformat(self._to_size, frame, self._height_px, self._width_px))

    def _cut_box(self, frame: Any, box: Box) -> Any:
        """Return a box of a frame in RGB: that of the stored colours could begin at even pixels only.

        So a little more is cut out of these, as much as the colours of the box depend on.
        """
        top_px, left_px = (max(0, side - side % 2 - MARGIN_PX) for side in box[:2])
        if self._crop is None:
            height_px = min(frame.height, box.top_px + box.height_px + MARGIN_PX) - top_px
            width_px = min(frame.width, box.left_px + box.width_px + MARGIN_PX) - left_px
            around = Box(top_px, left_px, height_px + height_px % 2, width_px + width_px % 2)
            self._crop = _open_crop(frame, around)
        self._crop.push(frame)
        around = self._crop.pull()
        rgb = self._reformat(self._to_rgb, around, around.height, around.width)
        inside = Box(box.top_px - top_px, box.left_px - left_px, box.height_px, box.width_px)
        boxed = av.VideoFrame(box.width_px, box.height_px, "gbrp")
        for target, plane in zip(boxed.planes, rgb.planes, strict=True):
            _view(target)[:] = _cut(_view(plane), inside)
        return boxed

    def _reformat(self, reformatter: Any, frame: Any, height_px: int, width_px: int) -> Any:
        # Planar RGB has the same values as rgb24, and swscale is several times as fast.
        return reformatter.reformat(
            frame, width_px, height_px, "gbrp", interpolation=BILINEAR, threads=1
        )


def _open_crop(frame: Any, box: Box) -> Any:
    """Return a filter that cuts a box out of frames like this one, without copying them."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    places = (box.width_px, box.height_px, box.left_px, box.top_px)
    crop = graph.add("crop", ":".join(str(place) for place in places))
    sink = graph.add("buffersink")
    source.link_to(crop)
    crop.link_to(sink)
    graph.configure()
    return graph


def _view(plane: Any) -> Plane:
    """Return a plane of a frame without copying it."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def _view_rgb(frame: Any) -> list[Plane]:
    """Return the red, the green and the blue plane of a gbrp frame, without copying them."""
    green, blue, red = (_view(plane) for plane in frame.planes)
    return [red, green, blue]


def _cut(plane: Plane, box: Box) -> Plane:
    return plane[box.top_px : box.top_px + box.height_px, box.left_px : box.left_px + box.width_px]
