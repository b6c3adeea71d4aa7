"""The launcher's end of the line to a program on one node."""

import contextlib
import json
import os
import subprocess
import sys
import time
from typing import Any

from vatt.launch.agent import FAILED_CODE, STAGE_ERROR_CODE
from vatt.launch.nodes import Node, wrap_command
from vatt.params import LaunchParams

ERROR_BYTES = 2000


class Connection:
    """A module that was started on a node, and the line of JSON by which it answers, if it has.

    All other lines from it are signs of life.
    """

    def __init__(self, launch: LaunchParams, node: Node, module: str, *arguments: str) -> None:
        self.node = node
        self.answer: Any = None
        self._heard_s, self._said, self._errors = time.monotonic(), b"", b""
        self._process = subprocess.Popen(
            wrap_command(launch, node, [sys.executable, "-m", module, *arguments]),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # On this machine it shares the terminal, which then shows a progress bar that moves.
            stderr=None if launch.launcher == "local" else subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches the launcher only
        )
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)

    def exchange(self) -> None:
        """Give a sign of life, take in what was answered, and show what came on standard error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(b"\n")
        if said := self._process.stdout.read():
            self._heard_s = time.monotonic()
            *lines, self._said = (self._said + said).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # an empty one, or a greeting of the shell
                    self.answer = json.loads(line)
        if self._process.stderr is not None and (errors := self._process.stderr.read()):
            self._errors = (self._errors + errors)[-ERROR_BYTES:]
            sys.stderr.buffer.write(errors)
            sys.stderr.flush()

    def find_loss(self, timeout_s: float) -> str | None:
        """Return why no answer will come any more, or None where it came or may come."""
        code = self._process.poll()
        self.exchange()
        if self.answer is not None:
            return None
        if code is not None:
            lines = self._errors.decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else f"the agent ended with exit code {code}"
        if time.monotonic() - self._heard_s > timeout_s:
            return f"silent for {timeout_s:g} s (link_timeout_s)"
        return None

    def hang_up(self) -> None:
        """Ask the program to end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self, within_s: float) -> bool:
        """Return whether the program ended `within_s` as it should, with all its processes."""
        deadline_s = time.monotonic() + within_s
        while self._process.poll() is None and time.monotonic() < deadline_s:
            self.exchange()  # the program would wait for a pipe that is full
            time.sleep(0.1)
        self._process.kill()
        self.exchange()
        return self._process.wait() in (0, FAILED_CODE, STAGE_ERROR_CODE)
