"""Opening source files that may be broken in any way (PyAV), and decoding them to timed frames.

All times are seconds on the time line of the file: 0 is where its earliest stream starts.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from heapq import heappop, heappush
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import av
from av.error import FFmpegError
from av.stream import Disposition

IMAGE_CODECS = frozenset({"bmp", "jpeg2000", "mjpeg", "png", "tiff", "webp"})
MAX_JUMP_FORWARD_S = 3600.0
MAX_JUMP_BACK_S = 1.0
MAX_REORDERED = 16
"""Frames that may be shown between two that are decoded one after the other."""
NUM_JUDGED = 2 * MAX_REORDERED
"""Packets that say whether a container knows when its frames are shown."""
DECODING_TIMES = ("avi", "asf")
"""Containers that say when packets are decoded. FFmpeg's guess when their frames are shown is wrong
for H.264, and for Xvid one frame late."""

ESTIMATED = ("aac", "mp3")
"""Formats whose length FFmpeg guesses by the bit rate, unless a header of MP3 says it. That also
says how much of the begin to skip."""


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


def best_stream(path: Path, container: Any, kind: Literal["video", "audio"]) -> Any | None:
    """Return the stream to use: the default one, then the largest picture, then the first.

    Covers, flagged or not, and streams that no decoder knows do not count.
    """
    streams = [
        stream
        for stream in getattr(container.streams, kind)
        if stream.codec_context is not None
        and not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
    ]
    images = [stream for stream in streams if stream.codec_context.name in IMAGE_CODECS]
    if images and len(container.streams) > 1:
        covers = _find_single_images(path, images)
        streams = [stream for stream in streams if stream.index not in covers]

    def rank(stream: Any) -> tuple[bool, int, int]:
        pixels = stream.width * stream.height if kind == "video" else 0
        return bool(stream.disposition & Disposition.default), pixels, -stream.index

    return max(streams, key=rank, default=None)


def _find_single_images(path: Path, images: list[Any]) -> set[int]:
    """Return the numbers of those streams that hold one image, which is a cover without a flag."""
    # A header that says that there are many is believed; in AVI one image may be two.
    suspects = {stream.index: 0 for stream in images if stream.frames <= 2}
    if suspects:
        with open_media(path) as container, suppress(FFmpegError):
            # The second image of a video comes soon; to be sure of a cover takes the whole file.
            for packet in container.demux([container.streams[index] for index in suspects]):
                suspects[packet.stream.index] += packet.size > 0
                if min(suspects.values()) > 1:
                    break
    return {index for index, num_images in suspects.items() if num_images == 1}


class FrameReader:
    """Decodes one stream of a file, and sees how far the file goes in all of its streams."""

    def __init__(self, container: Any, stream: Any, problems: list[str]) -> None:
        stream.codec_context.thread_count = 1
        self._container, self._stream, self._problems = container, stream, problems
        self._format = container.format.name
        self._zero_s: float = (container.start_time or 0) / av.time_base
        self.file_end_s = 0.0
        """Where the last packet of any stream ends, as far as the file has been read."""

    @property
    def declared_end_s(self) -> float:
        """Where the stream ends by its header, or the file by its own; 0 if neither says it."""
        if self._format in ESTIMATED and not self._stream.start_time:
            return 0.0
        if self._stream.duration is None:
            return float((self._container.duration or 0) / av.time_base)
        end = (self._stream.start_time or 0) + self._stream.duration
        end_s: float = float(end * self._stream.time_base) - self._zero_s
        return end_s

    def read(self) -> Iterator[tuple[float, Any]]:
        """Yield the time and the frame of all that can be decoded, in presentation order.

        What cannot be decoded is skipped and described in `problems` at the end.

        Raises:
            MediaError: it is encrypted, or the time stamps jump, so that nothing can be aligned
                with them.
        """
        packets = self._read_packets()
        is_ordered = self._stream.type == "video" and self._stream.codec_context.reorder_depth > 0
        judged = list(islice(packets, NUM_JUDGED)) if is_ordered else []
        is_undated = is_ordered and self._lacks_times(judged)
        frames = self._add_times(self._decode(chain(judged, packets), is_undated))
        last_s = None
        for time_s, frame in self._sort_times(frames) if is_undated else frames:
            if last_s is not None and not -MAX_JUMP_BACK_S <= time_s - last_s <= MAX_JUMP_FORWARD_S:
                raise MediaError(f"time stamps jump from {last_s:.3f} s to {time_s:.3f} s")
            last_s = time_s
            yield time_s, frame

    def _read_packets(self) -> Iterator[Any]:
        """Yield the packets of the stream; the last one is empty and asks for the last frames."""
        try:
            for packet in self._container.demux():
                begin = packet.dts if packet.pts is None else packet.pts
                if begin is not None:
                    end_s = float((begin + (packet.duration or 0)) * packet.time_base)
                    self.file_end_s = max(self.file_end_s, end_s - self._zero_s)
                if packet.stream.index != self._stream.index:
                    continue
                # Decoders would make pictures of it: some bytes are in the clear.
                if packet.has_sidedata("encryption_info"):
                    raise MediaError(f"the {self._stream.type} is encrypted (DRM)")
                yield packet
        except FFmpegError as error:
            self._problems.append(f"{self._stream.type}: reading stopped: {error.strerror}")
            end = av.Packet()  # the demuxer sends one at the end of the file only
            end.stream, end.time_base = self._stream, self._stream.time_base
            yield end

    def _lacks_times(self, packets: list[Any]) -> bool:
        """Whether packets of frames that are shown in another order have times in their own order.

        So it is in AVI and ASF, and where H.264 is in a container that it was not made for.
        """
        times = [packet.pts for packet in packets if packet.pts is not None]
        return self._format in DECODING_TIMES or times == sorted(times)

    def _decode(
        self, packets: Iterator[Any], is_undated: bool
    ) -> Iterator[tuple[float | None, Any]]:
        """Yield the frames of the packets that can be decoded, and their times, if they have any.

        An empty packet shows the frame before it once more. A decoder takes any empty packet for
        the end of the stream, so that only the last one is passed on.
        """
        num_lost, frame, end = 0, None, None
        for packet in packets:
            if is_undated and self._format in DECODING_TIMES:
                packet.pts = packet.dts
            if not packet.size:
                end = packet
                if frame is not None and packet.pts is not None:
                    yield self._time_of(packet), frame
                continue
            try:
                for frame in packet.decode():
                    yield self._time_of(frame), frame
            except FFmpegError:
                num_lost += 1
        try:
            for frame in end.decode() if end is not None else ():
                yield self._time_of(frame), frame
        except FFmpegError:
            num_lost += 1
        if num_lost:
            self._problems.append(f"{self._stream.type}: {num_lost} packets could not be decoded")

    def _time_of(self, item: Any) -> float | None:
        """Return when a frame or a packet is shown, if it says so."""
        return None if item.pts is None else float(item.pts * item.time_base) - self._zero_s

    def _add_times(self, frames: Iterator[tuple[float | None, Any]]) -> Iterator[tuple[float, Any]]:
        """Yield frames with their times; one without begins where the one before it ends.

        So does one whose time says nothing new, where others have none (H.264 in MPEG-PS).
        """
        end_s, last_s, is_sparse = 0.0, -math.inf, False
        for known_s, frame in frames:
            is_sparse |= known_s is None
            if known_s is None or (is_sparse and known_s <= last_s):
                time_s = end_s
            else:
                time_s = last_s = known_s
            end_s = time_s + self._measure(frame)
            yield time_s, frame

    def _measure(self, frame: Any) -> float:
        """Return how long a frame lasts, as far as it is known."""
        if self._stream.type == "audio":
            return float(frame.samples / frame.sample_rate)
        if frame.duration:
            return float(frame.duration * frame.time_base)
        return float(1 / (self._stream.guessed_rate or 1000))

    def _sort_times(self, frames: Iterator[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
        """Yield frames, which come in the order in which they are shown, with the sorted times.

        The times of a few frames are enough, so that a lost packet moves nothing after it.
        """
        waiting: deque[tuple[float, Any]] = deque()
        times: list[float] = []
        delay_s = None

        def pop() -> tuple[float, Any]:
            return heappop(times) + (delay_s or 0.0), waiting.popleft()[1]

        for time_s, frame in frames:
            waiting.append((time_s, frame))
            heappush(times, time_s)
            if len(waiting) > MAX_REORDERED:
                delay_s = self._measure_delay(waiting) if delay_s is None else delay_s
                yield pop()
        delay_s = self._measure_delay(waiting) if delay_s is None else delay_s
        while waiting:
            yield pop()

    def _measure_delay(self, frames: Sequence[tuple[float, Any]]) -> float:
        """Return how long after its packet the first frame of a file is shown.

        In AVI it is shown at once: the times are numbers of frames. In ASF it is shown when the
        decoder has it, where frames are reordered at all.
        """
        times = [time_s for time_s, _ in frames]
        if self._format != "asf" or times == sorted(times):
            return 0.0
        _, first = frames[0]
        return float(((first.dts or first.pts) - first.pts) * first.time_base)
