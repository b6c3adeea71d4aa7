"""Windows of stored videos: a few frames, or a box of them, decoded and scaled (VATT section 4.2)."""

from io import BytesIO
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from vatt.media.probe import MediaError
from vatt.media.video import Box

MARGIN_PX = 8
"""Of what is cut out before colours are converted; even."""
PROBING = {"skip_frame": "all"}
"""Of the decoder that looks at a file when it is opened: it need not decode what is not kept."""
# As `BILINEAR` of vatt.media.video; the colours of H.264 lie at the left of the pixels they are for.
SCALING = "flags=bilinear+accurate_rnd+bitexact+full_chroma_inp+full_chroma_int:in_chroma_loc=left"
Step = tuple[str, str]
"""A filter of FFmpeg and its arguments."""


class Framing(NamedTuple):
    """How pictures are shown: first a box is cut out, it is scaled to a size, then comes a part of that."""

    size_px: tuple[int, int]
    """Height and width."""
    box: Box | None = None
    """None is the whole stored picture."""
    part: Box | None = None
    """None is all of what was scaled."""
    is_flipped: bool = False
    """Left and right change places."""

    @property
    def shown_px(self) -> tuple[int, int]:
        """Return the height and the width of what is shown."""
        return self.size_px if self.part is None else (self.part.height_px, self.part.width_px)


def decode_video(
    data: bytes, first_frame: int, num_frames: int, framing: Framing
) -> UInt8[np.ndarray, "T H W 3"]:
    """Return frames of a stored video in RGB.

    Only what these frames need is decoded: from the key frame before them. In memory the colours
    lie apart, so that the transposed array (T 3 H W) is contiguous.

    Raises:
        MediaError: the video is damaged or ends too early.
    """
    planes = np.empty((num_frames, 3, *framing.shown_px), np.uint8)
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
                filters = filters or _open_filters(frame, framing)
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


def _open_filters(frame: Any, framing: Framing) -> Any:
    """Return filters that show frames like this one in planar RGB."""
    graph = av.filter.Graph()
    graph.threads = 1
    last = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    for name, arguments in [*_list_steps(frame, framing), ("buffersink", "")]:
        node = graph.add(name, arguments)
        last.link_to(node)
        last = node
    graph.configure()
    return graph


def _list_steps(frame: Any, framing: Framing) -> list[Step]:
    height_px, width_px = framing.size_px
    # Planar RGB has the same values as rgb24, and swscale is several times as fast.
    steps = [("scale", f"{width_px}:{height_px}:{SCALING}"), ("format", "gbrp")]
    if framing.box is not None:
        steps = _cut_box(frame, framing.box) + steps
    if framing.part is not None:
        steps.append(_cut(framing.part))
    if framing.is_flipped:
        steps.append(("hflip", ""))
    return steps


def _cut_box(frame: Any, box: Box) -> list[Step]:
    """Cut a box out of a frame in RGB: that of the stored colours could begin at even pixels only.

    So a little more is cut out of these first, as much as the colours of the box depend on.
    """
    top_px, left_px = (max(0, side - side % 2 - MARGIN_PX) for side in box[:2])
    height_px = min(frame.height, box.top_px + box.height_px + MARGIN_PX) - top_px
    width_px = min(frame.width, box.left_px + box.width_px + MARGIN_PX) - left_px
    around = Box(top_px, left_px, height_px + height_px % 2, width_px + width_px % 2)
    inside = Box(box.top_px - top_px, box.left_px - left_px, box.height_px, box.width_px)
    return [_cut(around), ("scale", SCALING), ("format", "gbrp"), _cut(inside)]


def _cut(box: Box) -> Step:
    return "crop", f"{box.width_px}:{box.height_px}:{box.left_px}:{box.top_px}"
