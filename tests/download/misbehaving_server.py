"""A web server on localhost that misbehaves by the name of the file that it is asked for."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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
        try:
            time.sleep(record.delay_s)
            self.tries = record.count(self.path)
            kind = self.path.split("/")[1]
            getattr(self, f"answer_{kind}", self.answer_well)()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with record.lock:
                record.running -= 1

    def content(self) -> bytes:
        with self.record.lock:
            return self.record.files.setdefault(self.path, content_of(self.path))

    def send_head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer_well(self, with_tag: bool = True, with_ranges: bool = True) -> None:
        content = self.content()
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        tags = {"ETag": tag} if with_tag else {}
        if with_tag and self.headers.get("If-None-Match") == tag:
            self.send_head(304, **tags)
            return
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if asked and with_ranges and condition in (None, tag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            size = len(content)
            headers = {"Content_Range": f"bytes {start}-{size - 1}/{size}", **tags}
            content = content[start:]
            self.send_head(206, Content_Length=str(len(content)), **headers)
        else:
            self.send_head(200, Content_Length=str(len(content)), **tags)
        self.write(content)

    def write(self, content: bytes) -> None:
        rate = self.record.bytes_per_s
        if rate is None:
            self.wfile.write(content)
            return
        step = 64 * 1024
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            time.sleep(step / rate)

    def answer_half(self) -> None:
        """Send half of what is said to come; the rest when asked for it."""
        content = self.content()
        if self.headers.get("Range"):
            self.answer_well()
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        self.send_head(200, Content_Length=str(len(content)), ETag=tag)
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True

    def answer_always_half(self) -> None:
        content = self.content()
        self.send_head(200, Content_Length=str(len(content)))
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True

    def answer_half_chunk(self) -> None:
        """Break off in a chunk the first time: no length tells that something is missing."""
        content = self.content()
        self.send_head(200, Transfer_Encoding="chunked")
        self.wfile.write(f"{len(content):x}\r\n".encode())
        if self.tries == 1:
            self.wfile.write(content[:1000])
            self.close_connection = True
        else:
            self.wfile.write(content + b"\r\n0\r\n\r\n")

    def answer_no_ranges(self) -> None:
        """Break off the first time; then ignore what range is asked for."""
        if self.tries == 1:
            self.answer_half()
        else:
            self.answer_well(with_ranges=False)

    def answer_no_seeking(self) -> None:
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
            with self.record.lock:
                self.record.files[self.path] = content_of(f"new {self.path}", 310_000)
        else:
            self.answer_well()

    def answer_changed_rudely(self) -> None:
        """As above, but send the rest of the new bytes as if nothing had happened."""
        if self.tries == 1:
            self.answer_half()
            with self.record.lock:
                self.record.files[self.path] = content_of(f"new {self.path}")
        elif self.headers.get("Range"):
            del self.headers["If-Range"]
            self.answer_well()
        else:
            self.answer_well()

    def answer_other_range(self) -> None:
        """Begin somewhere else than asked."""
        if self.tries == 1:
            self.answer_half()
        elif self.headers.get("Range"):
            content = self.content()
            tag = f'"{hashlib.md5(content).hexdigest()}"'
            size = len(content)
            headers = {"Content_Range": f"bytes 10-{size - 1}/{size}", "ETag": tag}
            self.send_head(206, Content_Length=str(size - 10), **headers)
            self.wfile.write(content[10:])
        else:
            self.answer_well()

    def answer_untagged(self) -> None:
        """Break off the first time; nothing names the bytes, so that no rest may be appended."""
        if self.tries == 1:
            self.answer_always_half()
        else:
            self.answer_well(with_tag=False)

    def answer_stall_before(self) -> None:
        """Say nothing the first time."""
        if self.tries == 1:
            time.sleep(2.5)
            self.close_connection = True
        else:
            self.answer_well()

    def answer_stall_within(self) -> None:
        """Send a part, then nothing, the first time."""
        if self.headers.get("Range"):
            self.answer_well()
            return
        content = self.content()
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        self.send_head(200, Content_Length=str(len(content)), ETag=tag)
        self.wfile.write(content[:100_000])
        time.sleep(2.5)
        self.close_connection = True

    def answer_stall_always(self) -> None:
        time.sleep(2.5)
        self.close_connection = True

    def answer_drip(self) -> None:
        """Send a byte now and then the first time: no read ever waits long."""
        content = self.content()
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        if self.tries > 1:
            self.answer_well()
            return
        self.send_head(200, Content_Length=str(len(content)), ETag=tag)
        for byte in content[:1000]:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def answer_drip_always(self) -> None:
        self.tries = 1
        self.answer_drip()

    def answer_refuse(self) -> None:
        """/refuse/404/name answers 404."""
        self.send_head(int(self.path.split("/")[2]), Content_Length="0")

    def answer_500_twice(self) -> None:
        if self.tries <= 2:
            self.send_head(500, Content_Length="0")
        else:
            self.answer_well()

    def answer_busy(self) -> None:
        if self.tries == 1:
            self.send_head(429, Content_Length="0", Retry_After="1")
        else:
            self.answer_well()

    def answer_busy_for_days(self) -> None:
        self.send_head(503, Content_Length="0", Retry_After="200000")

    def answer_close(self) -> None:
        """Close the connection at once, twice."""
        if self.tries <= 2:
            self.close_connection = True
        else:
            self.answer_well()

    def answer_close_always(self) -> None:
        self.close_connection = True

    def answer_redirect(self) -> None:
        self.send_head(302, Content_Length="0", Location=f"/well{self.path}")

    def answer_loop(self) -> None:
        self.send_head(302, Content_Length="0", Location=self.path)

    def answer_elsewhere(self) -> None:
        """Lead to a file of the machine that asks."""
        self.send_head(302, Content_Length="0", Location="file:///etc/hostname")


class Server(ThreadingHTTPServer):
    """Leaves at once, and says nothing of those who close their connection."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[tuple[str, Record]]:
    """Serve for the time of the block; yield the address and the record."""
    record = Record()
    handler = type("BoundHandler", (Handler,), {"record": record})
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", record
        finally:
            server.shutdown()
            thread.join()
