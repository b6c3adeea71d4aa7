"""A web server on localhost that misbehaves by the name of the file that it is asked for."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.download.made_files import serve_with


def content_of(path: str, num_bytes: int = 300_000) -> bytes:
    """Bytes that are a function of the path."""
    return random.Random(path).randbytes(num_bytes)


@dataclass
class Record:
    """What was asked, and what the server holds."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and range of each request."""
    times_s: list[float] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    delay_s: float = 0.0
    bytes_per_s: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, path: str) -> int:
        return Counter(asked for asked, _ in self.requests)[path]

    def ranges(self, path: str) -> list[str | None]:
        return [asked_range for asked, asked_range in self.requests if asked == path]


MENDED = {
    "no_ranges": ("half", 1, "no_seeking"),
    "untagged": ("always_half", 1, "plain"),  # nothing names the bytes: no rest may be appended
    "stall_before": ("stall_always", 1, "well"),
    "drip": ("drip_always", 1, "well"),  # a byte now and then: no read ever waits long
    "500_twice": ("500", 2, "well"),
    "busy": ("429", 1, "well"),
    "close": ("close_always", 2, "well"),
}
"""What a misbehaviour is at first, how often, and what it is then."""


class Handler(BaseHTTPRequestHandler):
    """The first part of the path names the misbehaviour; the rest is a file's name."""

    protocol_version = "HTTP/1.1"
    record: Record

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        record = self.record
        with record.lock:
            record.requests.append((self.path, self.headers.get("Range")))
            record.times_s.append(time.monotonic())
            record.running += 1
            record.most_running = max(record.most_running, record.running)
            self.content = record.files.setdefault(self.path, content_of(self.path))
        self.tag = f'"{hashlib.md5(self.content).hexdigest()}"'
        try:
            time.sleep(record.delay_s)
            self.tries = record.count(self.path)
            kind = self.path.split("/")[1]
            first, times, then = MENDED.get(kind, (kind, 1, kind))
            kind = first if self.tries <= times else then
            getattr(self, f"answer_{kind}", self.answer_well)()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with record.lock:
                record.running -= 1

    def hold(self, content: bytes) -> None:
        """Hold other content from now on."""
        with self.record.lock:
            self.record.files[self.path] = content

    def send_head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send_part(self, num_bytes: int, with_tag: bool = True) -> None:
        """Say that all is to come, and send a part of it."""
        tags = {"ETag": self.tag} if with_tag else {}
        self.send_head(200, Content_Length=str(len(self.content)), **tags)
        self.wfile.write(self.content[:num_bytes])
        self.close_connection = True

    def send_rest(self, start: int) -> None:
        size = len(self.content)
        place = f"bytes {start}-{size - 1}/{size}"
        self.send_head(206, Content_Length=str(size - start), Content_Range=place, ETag=self.tag)
        self.write(self.content[start:])

    def answer_well(self, with_tag: bool = True, with_ranges: bool = True) -> None:
        tags = {"ETag": self.tag} if with_tag else {}
        asked = self.headers.get("Range")
        if with_tag and self.headers.get("If-None-Match") == self.tag:
            self.send_head(304, **tags)
        elif asked and with_ranges and self.headers.get("If-Range") in (None, self.tag):
            self.send_rest(int(asked.removeprefix("bytes=").removesuffix("-")))
        else:
            self.send_head(200, Content_Length=str(len(self.content)), **tags)
            self.write(self.content)

    def write(self, content: bytes) -> None:
        rate = self.record.bytes_per_s
        step = 64 * 1024 if rate else len(content) or 1
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            time.sleep(step / rate if rate else 0.0)

    def answer_half(self) -> None:
        """Send half of what is said to come; the rest when asked for it."""
        if self.headers.get("Range"):
            self.answer_well()
        else:
            self.send_part(len(self.content) // 2)

    def answer_always_half(self) -> None:
        self.send_part(len(self.content) // 2, with_tag=False)

    def answer_half_chunk(self) -> None:
        """Break off in a chunk the first time: no length tells that something is missing."""
        self.send_head(200, Transfer_Encoding="chunked")
        self.wfile.write(f"{len(self.content):x}\r\n".encode())
        if self.tries == 1:
            self.wfile.write(self.content[:1000])
            self.close_connection = True
        else:
            self.wfile.write(self.content + b"\r\n0\r\n\r\n")

    def answer_no_seeking(self) -> None:
        """Ignore what range is asked for."""
        self.answer_well(with_ranges=False)

    def answer_plain(self) -> None:
        """Name no bytes by a tag."""
        self.answer_well(with_tag=False)

    def answer_deaf(self) -> None:
        """Send all of it, whatever the condition."""
        del self.headers["If-None-Match"]
        self.answer_well()

    def answer_changed(self) -> None:
        """Hold other bytes, under another tag, when asked for the rest."""
        if self.tries == 1:
            self.answer_half()
            self.hold(content_of(f"new {self.path}", 310_000))
        else:
            self.answer_well()

    def answer_changed_rudely(self) -> None:
        """As above, but send the rest of the new bytes as if nothing had happened."""
        if self.tries == 1:
            self.answer_half()
            self.hold(content_of(f"new {self.path}"))
        else:
            del self.headers["If-Range"]
            self.answer_well()

    def answer_other_range(self) -> None:
        """Begin somewhere else than asked."""
        if self.tries > 1 and self.headers.get("Range"):
            self.send_rest(10)
        else:
            self.answer_half() if self.tries == 1 else self.answer_well()

    def answer_stall_within(self) -> None:
        """Send a part, then nothing, the first time."""
        if self.headers.get("Range"):
            self.answer_well()
        else:
            self.send_part(100_000)
            time.sleep(2.5)

    def answer_stall_always(self) -> None:
        time.sleep(2.5)
        self.close_connection = True

    def answer_drip_always(self) -> None:
        self.send_part(0)
        for byte in self.content[:1000]:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def answer_refuse(self) -> None:
        """/refuse/404/name answers 404."""
        self.send_head(int(self.path.split("/")[2]), Content_Length="0")

    def answer_500(self) -> None:
        self.send_head(500, Content_Length="0")

    def answer_429(self) -> None:
        self.send_head(429, Content_Length="0", Retry_After="1")

    def answer_busy_for_days(self) -> None:
        self.send_head(503, Content_Length="0", Retry_After="200000")

    def answer_close_always(self) -> None:
        self.close_connection = True

    def answer_redirect(self) -> None:
        self.send_head(302, Content_Length="0", Location=f"/well{self.path}")

    def answer_loop(self) -> None:
        self.send_head(302, Content_Length="0", Location=self.path)

    def answer_elsewhere(self) -> None:
        """Lead to a file of the machine that asks."""
        self.send_head(302, Content_Length="0", Location="file:///etc/hostname")


@contextmanager
def serve() -> Iterator[tuple[str, Record]]:
    """Serve for the time of the block; yield the address and the record."""
    record = Record()
    with serve_with(type("BoundHandler", (Handler,), {"record": record})) as address:
        yield address, record
