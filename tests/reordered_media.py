"""Videos whose frames are not coded in the order in which they are shown, in any container."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

FORMATS = {".f4v": "f4v", ".m4v": "mp4", ".mts": "mpegts", ".vob": "vob", ".wmv": "asf"}
"""Where FFmpeg does not choose the muxer by the suffix, or takes a raw stream for it."""
SUFFIXES = (
    *(".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpg", ".mts", ".mxf", ".nut", ".ts", ".vob", ".wmv"),
)
CODECS = ("libx264", "libx265", "mpeg1video", "mpeg2video", "mpeg4")


@dataclass(frozen=True)
class Ramp:
    """A grey picture that gets brighter by 2 of 255 with every frame."""

    codec: str = "libx264"
    num_frames: int = 75
    rate_hz: Fraction = Fraction(25)
    num_b_frames: int = 3
    key_frame_interval: int = 250


def write_ramp(path: Path, ramp: Ramp) -> bool:
    """Write a ramp; return whether the container can hold the codec."""
    try:
        with av.open(str(path), "w", format=FORMATS.get(path.suffix)) as container:
            _write(container, ramp)
    except (av.FFmpegError, ValueError):
        path.unlink(missing_ok=True)
        return False
    return True


def expected_greys(ramp: Ramp) -> npt.NDArray[np.float64]:
    """Return the RGB value of every frame; by ITU-R BT.601 black is 16 and white 235."""
    return (30 + 2 * np.arange(ramp.num_frames) - 16) / 219 * 255


def _write(container: av.container.OutputContainer, ramp: Ramp) -> None:
    quiet = {"x265-params": "log-level=none"} if ramp.codec == "libx265" else {}
    stream = container.add_stream(ramp.codec, rate=ramp.rate_hz, options=quiet)
    assert isinstance(stream, av.video.stream.VideoStream)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    stream.codec_context.max_b_frames = ramp.num_b_frames
    stream.codec_context.gop_size = ramp.key_frame_interval
    stream.codec_context.bit_rate = 2_000_000
    for number in range(ramp.num_frames):
        picture = np.full((96, 64), 128, np.uint8)
        picture[:64] = 30 + 2 * number
        frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
        frame.pts, frame.time_base = number, 1 / ramp.rate_hz
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
