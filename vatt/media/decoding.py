"""Opening and decoding of source files that may be broken in any way (PyAV).

All times are seconds on the time line of the file: 0 is where its earliest stream starts.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import av
from av.error import FFmpegError
from av.stream import Disposition


class MediaError(Exception):
    """A file, or one stream of it, cannot be used; the message is the reason, without the path."""


@contextmanager
def open_media(path: Path) -> Iterator[Any]:
    """Open a source file as a PyAV container.

    Raises:
        MediaError: the file is missing, empty, or not a media file.
    """
    # Play lists and the like may name other files and addresses: they get none.
    options = {"protocol_whitelist": "none"}
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            if not file.read(1):
                raise MediaError("the file is empty")
            file.seek(0)
            container = av.open(file, options=options, metadata_errors="ignore")
        except (FFmpegError, OSError) as error:
            raise MediaError(f"cannot be opened: {error.strerror}") from error
        stack.enter_context(container)
        yield container


def best_stream(container: Any, kind: Literal["video", "audio"]) -> Any | None:
    """Return the stream to use: the default one, then the largest picture, then the first.

    Attached pictures (covers) and streams that no decoder knows do not count.
    """
    streams = [
        stream
        for stream in getattr(container.streams, kind)
        if stream.codec_context is not None
        and not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
    ]

    def rank(stream: Any) -> tuple[bool, int, int]:
        pixels = stream.width * stream.height if kind == "video" else 0
        return bool(stream.disposition & Disposition.default), pixels, -stream.index

    return max(streams, key=rank, default=None)


def decode(container: Any, stream: Any, problems: list[str]) -> Iterator[tuple[float, Any]]:
    """Yield the time and the frame of all that can be decoded, in presentation order.

    What cannot be decoded is skipped and described in `problems` at the end.

    Raises:
        MediaError: it is encrypted, or the time stamps jump by more than an hour, or a second
            back, so that nothing can be aligned with them.
    """
    stream.codec_context.thread_count = 1
    zero_s = (container.start_time or 0) / av.time_base
    last_s = None
    for frame in _decode_packets(container, stream, problems):
        if frame.pts is None:
            time_s = 0.0 if last_s is None else last_s + 1e-6
        else:
            time_s = frame.time - zero_s
        if last_s is not None and not -1.0 <= time_s - last_s <= 3600.0:
            raise MediaError(f"time stamps jump from {last_s:.3f} s to {time_s:.3f} s")
        last_s = time_s
        yield time_s, frame


def _decode_packets(container: Any, stream: Any, problems: list[str]) -> Iterator[Any]:
    """Yield the frames of the packets that can be decoded."""
    num_lost = 0
    try:
        for packet in container.demux(stream):
            # Decoders would make pictures of it: some bytes are in the clear.
            if packet.has_sidedata("encryption_info"):
                raise MediaError(f"the {stream.type} is encrypted (DRM)")
            try:
                yield from packet.decode()
            except FFmpegError:
                num_lost += 1
    except FFmpegError as error:
        problems.append(f"{stream.type}: reading stopped: {error.strerror}")
    if num_lost:
        problems.append(f"{stream.type}: {num_lost} packets could not be decoded")
