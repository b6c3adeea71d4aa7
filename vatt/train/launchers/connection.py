"""The launcher's end of the line to the agent of one node."""

import codecs
import collections
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

ERROR_BYTES = 2000
FAILED = 3
CLEAN_EXIT_CODES = (0, FAILED)
"""Of an agent that left no process behind; ssh and srun have others for a lost node."""


@dataclass(frozen=True)
class Node:
    """A machine that runs at most `slots` ranks."""

    name: str
    slots: int


class Connection:
    """An agent that was started on a node, and what it has said so far.

    hello, end: None until it has said so. An agent on this machine `shares_terminal`, which then
    shows a progress bar that moves.
    """

    def __init__(self, node: Node, command: list[str], *, shares_terminal: bool) -> None:
        self.node = node
        self.hello: dict[str, Any] | None = None
        self.end: dict[str, Any] | None = None
        self.heard_s = time.monotonic()
        self._errors: collections.deque[int] = collections.deque(maxlen=ERROR_BYTES)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if shares_terminal else subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches the launcher only
        )
        assert self._process.stdout is not None
        self._threads = [_start_thread(self._listen, self._process.stdout)]
        if self._process.stderr is not None:
            self._threads.append(_start_thread(self._show, self._process.stderr))

    def send(self, message: dict[str, Any]) -> None:
        """Send one line; an empty message is a sign of life."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write((json.dumps(message) + "\n").encode())
            self._process.stdin.flush()

    def find_loss(self, link_timeout_s: float) -> str | None:
        """Say why nothing more will come from the agent, or None."""
        if self.end is not None:
            return None
        if self._process.poll() is not None:
            self._join_threads()
            if self.end is None:
                code = self._process.returncode
                return self.last_error() or f"the agent ended with exit code {code}"
            return None
        if time.monotonic() - self.heard_s > link_timeout_s:
            return f"silent for {link_timeout_s:g} s (link_timeout_s)"
        return None

    def last_error(self) -> str:
        """Return the last line that came from the node's standard error."""
        lines = bytes(self._errors).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def hang_up(self) -> None:
        """Ask the agent to end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def close(self, within_s: float) -> bool:
        """Return whether the agent that was asked ended `within_s`, with all its processes."""
        try:
            self._process.wait(max(within_s, 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._join_threads()
        return self._process.returncode in CLEAN_EXIT_CODES

    def _join_threads(self) -> None:
        for thread in self._threads:
            thread.join(1.0)

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.heard_s = time.monotonic()
            try:
                message = json.loads(line)
            except ValueError:  # a greeting of the node's shell
                continue
            self.hello = message.get("hello", self.hello)
            self.end = message.get("end", self.end)

    def _show(self, stream: IO[bytes]) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while chunk := os.read(stream.fileno(), 4096):
            self._errors.extend(chunk)
            sys.stderr.write(decoder.decode(chunk))
            sys.stderr.flush()


def _start_thread(target: Callable[[IO[bytes]], None], stream: IO[bytes]) -> threading.Thread:
    thread = threading.Thread(target=target, args=(stream,), daemon=True)
    thread.start()
    return thread
