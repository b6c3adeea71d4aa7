"""Files that the tests of downloads write, read and serve."""

import io
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from vatt.params import FetchParams

QUICK = FetchParams(tries=3, backoff_s=0.01, stall_s=2.0, min_free_gb=0.0)


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files below a folder; a text is written as it stands, line ends too."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder by their names."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def zip_of(files: Mapping[str, bytes | str]) -> bytes:
    """Return a zip archive of files."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


class Server(ThreadingHTTPServer):
    """Leaves at once, and says nothing of those who close their connection."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextmanager
def serve_with(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on localhost for the time of the block; yield the address."""
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, *args: object) -> None:
        pass
