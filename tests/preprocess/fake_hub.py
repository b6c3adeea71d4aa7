"""The part of the Hugging Face Hub that fetching a model asks for, on this machine."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve_hub(repository: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a hub with one repository, and the paths that were asked for."""
    asked: list[str] = []
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{repository}/tree/"):
                rows = [
                    {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}
                    for name, content in files.items()
                ]
                self._answer(json.dumps(rows).encode(), "")
            elif path.startswith(f"/api/models/{repository}"):
                siblings = [{"rfilename": name} for name in files]
                info = {"id": repository, "sha": COMMIT, "siblings": siblings}
                self._answer(json.dumps(info).encode(), "")
            elif path.startswith(f"/{repository}/resolve/") and path.rpartition("/")[2] in files:
                content = files[path.rpartition("/")[2]]
                self._answer(content, _digest(content))
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, content: bytes, etag: str) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{etag}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
