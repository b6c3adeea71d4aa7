"""Decoding of stored videos: a few frames, of which a view is scaled and cut (VATT section 4.2)."""

from io import BytesIO
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from vatt.media.decoding import MediaError
from vatt.media.video import Box

MARGIN_PX = 8
"""Pixels around a box whose colours those of the box depend on; even."""
PROBING = {"skip_frame": "all"}
"""The decoder that looks at a file when it is opened need not decode what is not kept."""
# As `BILINEAR` of vatt.media.video; the colours of H.264 lie at the left of their pixels.
SCALING = "flags=bilinear+accurate_rnd+bitexact+full_chroma_inp+full_chroma_int:in_chroma_loc=left"
Step = tuple[str, str]
"""A filter of FFmpeg and its arguments."""


class View(NamedTuple):
    """What is shown of a picture: a box of it is scaled to a size, then a part is cut out."""

    size_px: tuple[int, int]
    """Height and width after scaling."""
    part: Box | None = None
    """None is all of what was scaled."""
    box: Box | None = None
    """None is the whole stored picture."""
    is_flipped: bool = False
    """Whether left and right change places."""


def decode_video(
    data: bytes, first_frame: int, num_frames: int, view: View
) -> UInt8[np.ndarray, "T H W 3"]:
    """Return a view of frames of a stored video in RGB.

    Only what these frames need is decoded: from the key frame before them. In memory the colours
    lie apart, so that the transposed array (T 3 H W) is contiguous.

    Raises:
        MediaError: the video is damaged or ends too early.
    """
    shown_px = view.part[2:] if view.part else view.size_px
    planes = np.empty((num_frames, 3, *shown_px), np.uint8)
    number, filters = 0, None
    try:
        with av.open(BytesIO(data), format="mp4", options=PROBING) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            first_pts = round((first_frame - 0.5) / stream.average_rate / stream.time_base)
            if first_frame:
                container.seek(first_pts, stream=stream)
            for frame in container.decode(stream):
                if frame.pts < first_pts:
                    continue
                filters = filters or _open_filters(frame, view)
                filters.push(frame)
                green, blue, red = filters.pull().planes
                for target, plane in zip(planes[number], (red, green, blue), strict=True):
                    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                    target[:] = rows[: plane.height, : plane.width]
                number += 1
                if number == num_frames:
                    break
    except (FFmpegError, IndexError) as error:
        raise MediaError(f"the video cannot be decoded: {error}") from error
    if number < num_frames:
        raise MediaError(f"the video ends at frame {first_frame + number}")
    return planes.transpose(0, 2, 3, 1)


def _open_filters(frame: Any, view: View) -> Any:
    """Return filters that show a view of frames like this one in planar RGB."""
    graph = av.filter.Graph()
    graph.threads = 1
    last = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    height_px, width_px = view.size_px
    steps = [] if view.box is None else _cut_box(frame, view.box)
    # Planar RGB has the same values as rgb24, and swscale is several times as fast.
    steps += [("scale", f"{width_px}:{height_px}:{SCALING}"), ("format", "gbrp")]
    if view.part is not None:
        steps.append(_cut(view.part))
    if view.is_flipped:
        steps.append(("hflip", ""))
    for name, arguments in [*steps, ("buffersink", "")]:
        node = graph.add(name, arguments)
        last.link_to(node)
        last = node
    graph.configure()
    return graph


def _cut_box(frame: Any, box: Box) -> list[Step]:
    """Cut a box out of a frame in RGB: that of the stored colours could begin at even pixels only.

    So the box and its margin are cut out of these first.
    """
    top_px, left_px = (max(0, side - side % 2 - MARGIN_PX) for side in box[:2])
    height_px = min(frame.height, box.top_px + box.height_px + MARGIN_PX) - top_px
    width_px = min(frame.width, box.left_px + box.width_px + MARGIN_PX) - left_px
    around = Box(top_px, left_px, height_px + height_px % 2, width_px + width_px % 2)
    inside = Box(box.top_px - top_px, box.left_px - left_px, box.height_px, box.width_px)
    return [_cut(around), ("scale", SCALING), ("format", "gbrp"), _cut(inside)]


def _cut(box: Box) -> Step:
    return "crop", f"{box.width_px}:{box.height_px}:{box.left_px}:{box.top_px}"
