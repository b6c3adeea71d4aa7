"""Pictures: from source frames to a constant frame rate, to and from stored H.264 (VATT section 4.1)."""

import math
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from jaxtyping import UInt8

from vatt.data.media import MediaError
from vatt.params import PreprocessParams

Picture = UInt8[np.ndarray, "H W 3"]
Plane = UInt8[np.ndarray, "_ _"]

MAX_HELD_S = 10.0
"""A frame is shown until the next one, but not longer than this: after it there is no picture."""
MAX_ASPECT = 8.0
TOLERANCE_S = 0.001
"""Containers round time stamps to milliseconds."""
EXACT = (
    Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INP  # else a picture of half the width loses colours
    | Interpolation.FULL_CHR_H_INT  # else RGB gets darker by 2 of 255
)
DOWNSCALE = Interpolation.AREA | EXACT
UPSCALE = Interpolation.BICUBIC | EXACT
BILINEAR = Interpolation.BILINEAR | EXACT
MARGIN_PX = 8
"""Of what is cut out before colours are converted; even."""
BT601 = 6  # AVCOL_SPC_SMPTE170M
UNTAGGED = 2  # AVCOL_SPC_UNSPECIFIED
HD_HEIGHT_PX = 720


class Box(NamedTuple):
    """A part of a picture."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int


class FrameScaler:
    """Turns frames of one stream upright, to square pixels, to RGB and to one size.

    The first frame decides: the short side becomes `short_side_px` (or one more, to be even),
    the long side keeps the proportion, rounded to even.
    """

    def __init__(self, stream: Any, first_frame: Any, short_side_px: int) -> None:
        self._turn = _read_display_matrix(first_frame)
        width = first_frame.width * float(stream.sample_aspect_ratio or 1)
        height = float(first_frame.height)
        if not 1 / MAX_ASPECT <= width / height <= MAX_ASPECT:
            raise MediaError(
                f"the picture is {width:.0f} x {height:.0f}: a side is {MAX_ASPECT:.0f} times the other"
            )
        scale = short_side_px / min(width, height)
        self._width, self._height = (
            2 * math.ceil(side * scale / 2 - 0.25) for side in (width, height)
        )
        self._interpolation = DOWNSCALE if scale < 1 else UPSCALE
        self._reformatter = VideoReformatter()  # that of a frame would be set up for it alone
        # Untagged high definition is BT.709 by convention; swscale takes BT.601 for it.
        is_untagged_hd = first_frame.colorspace == UNTAGGED and first_frame.height >= HD_HEIGHT_PX
        self._colorspace = Colorspace.ITU709 if is_untagged_hd else None

    def scale(self, frame: Any) -> Picture:
        """Return the upright picture of a frame."""
        scaled = self._reformatter.reformat(
            frame,
            self._width,
            self._height,
            "gbrp",  # the same values as rgb24, and swscale is three times as fast
            src_colorspace=self._colorspace,
            interpolation=self._interpolation,
            threads=1,
        )
        picture: Picture = scaled.to_ndarray()
        transposed, flip_rows, flip_columns = self._turn
        if transposed:
            picture = picture.transpose(1, 0, 2)
        picture = picture[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        return np.ascontiguousarray(picture)


def _read_display_matrix(frame: Any) -> tuple[bool, bool, bool]:
    """Return whether to transpose, then to flip rows and columns, to nearest quarter turn."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    # The matrix takes a source point (x, y) to (a x + c y, b x + d y).
    if abs(a) >= abs(b):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def sample_frames(
    frames: Iterator[tuple[float, Any]], scaler: FrameScaler, origin_s: float, frame_rate_hz: float
) -> Iterator[Picture | None]:
    """Yield the picture shown at origin_s, origin_s + 1 / frame_rate_hz, ... until the stream ends.

    None where nothing is shown. The first frame is shown one such time early, so that a single
    frame cannot fall between two of them.
    """

    def first_slot_after(time_s: float) -> int:
        return math.ceil((time_s - TOLERANCE_S - origin_s) * frame_rate_hz)

    slot = 0
    picture: Picture | None = None
    for is_first, frame, time_s, end_s in _with_ends(frames, 1 / frame_rate_hz):
        begin, end = first_slot_after(time_s), first_slot_after(end_s)
        if is_first:
            begin = math.floor((time_s + TOLERANCE_S - origin_s) * frame_rate_hz)
            end = max(end, begin + 1)
        while slot < begin:
            yield None
            slot += 1
        picture = scaler.scale(frame) if slot < end else None
        while slot < end:
            yield picture
            slot += 1


def _with_ends(
    frames: Iterator[tuple[float, Any]], default_s: float
) -> Iterator[tuple[bool, Any, float, float]]:
    """Yield whether it is the first, the frame, its time and when it is no longer shown.

    A frame that is not later than the one before it is left out.
    """
    shown = next(frames, None)
    is_first = True
    while shown is not None:
        time_s, frame = shown
        shown = next((later for later in frames if later[0] > time_s), None)
        if shown is not None:
            end_s = shown[0]
        else:
            end_s = time_s + (
                float(frame.duration * frame.time_base) if frame.duration else default_s
            )
        yield is_first, frame, time_s, min(end_s, time_s + MAX_HELD_S)
        is_first = False


def encode_video(pictures: UInt8[np.ndarray, "T H W 3"], params: PreprocessParams) -> bytes:
    """Return an MP4 with H.264 only; frame k is shown at k / frame_rate_hz. H and W are even."""
    rate = Fraction(params.frame_rate_hz).limit_denominator(1001)
    options = {
        "crf": str(params.video_crf),
        "g": str(params.key_frame_interval),
        "preset": "veryfast",
        "bf": "0",
        "sc_threshold": "0",
        # With it, about 2 % of encodings differ from run to run on small pictures (x264's assembly
        # reads memory that it did not write). It shifts quality between blocks, no more.
        "mbtree": "0",
    }
    file, reformatter = BytesIO(), VideoReformatter()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # With several threads the bytes would depend on the machine.
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = BT601
        stream.codec_context.color_range = ColorRange.MPEG
        for picture in pictures:
            frame = reformatter.reformat(
                av.VideoFrame.from_numpy_buffer(picture, "rgb24"),
                format="yuv420p",
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.MPEG,
                interpolation=UPSCALE,
                threads=1,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


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
