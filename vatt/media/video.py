"""Pictures: from source frames to a constant frame rate, to stored H.264 (VATT section 4.1)."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from io import BytesIO
from itertools import repeat
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from jaxtyping import UInt8

from vatt.media.colours import choose_map, choose_matrix
from vatt.media.decoding import MediaError
from vatt.params import PreprocessParams

Picture = UInt8[np.ndarray, "H W 3"]
"""RGB. In memory the colours follow each other, because a plane by itself is fastest to read."""

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
BT601 = 6  # AVCOL_SPC_SMPTE170M


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
                f"the picture is {width:.0f} x {height:.0f}: a side is {MAX_ASPECT:.0f} times the "
                "other"
            )
        scale = short_side_px / min(width, height)
        self._width, self._height = (
            2 * math.ceil(side * scale / 2 - 0.25) for side in (width, height)
        )
        self._interpolation = DOWNSCALE if scale < 1 else UPSCALE
        self._reformatter = VideoReformatter()  # that of a frame would be set up for it alone
        self._matrix, matrix_guess = choose_matrix(first_frame)
        self._map, map_guess = choose_map(first_frame)
        self.guesses = [guess for guess in (matrix_guess, map_guess) if guess]
        """What was guessed about the colours and may be wrong."""

    def scale(self, frame: Any) -> Picture:
        """Return the upright picture of a frame, a view of three planes."""
        scaled = self._reformatter.reformat(
            frame,
            self._width,
            self._height,
            # The same values as rgb24, and swscale is three times as fast.
            "gbrp" if self._map is None else "gbrp16le",
            src_colorspace=self._matrix,
            interpolation=self._interpolation,
            threads=1,
        )
        if self._map is None:
            planes = np.stack(_view_planes(scaled))
        else:
            planes = self._map.apply(np.stack(_view_planes(scaled, np.uint16)))
        picture: Picture = planes.transpose(1, 2, 0)
        transposed, flip_rows, flip_columns = self._turn
        if transposed:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _view_planes(frame: Any, kind: Any = np.uint8) -> list[Any]:
    """Return red, green and blue of a frame in gbrp or gbrp16le; writing to them changes it."""
    green, blue, red = (
        np.frombuffer(plane, kind).reshape(frame.height, -1)[:, : frame.width]
        for plane in frame.planes
    )
    return [red, green, blue]


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

    Yield None where nothing is shown. The first frame is shown one such time early, so that a
    single frame cannot fall between two of them.
    """

    def first_slot_after(time_s: float) -> int:
        return math.ceil((time_s - TOLERANCE_S - origin_s) * frame_rate_hz)

    slot, is_first, shown = 0, True, next(frames, None)
    scaled, picture = None, None
    while shown is not None:
        time_s, frame = shown
        # A frame that is not later than the one before it is left out.
        shown = next((later for later in frames if later[0] > time_s), None)
        if shown is not None:
            end_s = shown[0]
        elif frame.duration:
            end_s = time_s + float(frame.duration * frame.time_base)
        else:
            end_s = time_s + 1 / frame_rate_hz
        begin = first_slot_after(time_s)
        end = first_slot_after(end_s)
        if is_first:
            begin = math.floor((time_s + TOLERANCE_S - origin_s) * frame_rate_hz)
            end, is_first = max(end, begin + 1), False
        yield from repeat(None, begin - slot)
        slot = max(slot, begin)
        if slot < end:
            if frame is not scaled:  # the source may say that a frame is shown once more
                scaled, picture = frame, scaler.scale(frame)
            yield from repeat(picture, end - slot)
            slot = end


def encode_video(
    pictures: Sequence[Picture] | UInt8[np.ndarray, "T H W 3"], params: PreprocessParams
) -> bytes:
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
        stream.height, stream.width, _ = pictures[0].shape
        stream.pix_fmt = "yuv420p"
        # With several threads the bytes would depend on the machine.
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = BT601
        stream.codec_context.color_range = ColorRange.MPEG
        for picture in pictures:
            frame = av.VideoFrame(stream.width, stream.height, "gbrp")
            for plane, values in zip(_view_planes(frame), picture.transpose(2, 0, 1), strict=True):
                plane[:] = values
            frame = reformatter.reformat(
                frame,
                format="yuv420p",
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.MPEG,
                interpolation=UPSCALE,
                threads=1,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
