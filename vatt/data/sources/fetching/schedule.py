"""The schedule: which file is asked for next, so that no host is asked too much or too soon."""

import heapq
import itertools
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from vatt.data.sources.fetching.remote_file import RemoteFile
from vatt.params import FetchParams

LONGEST_WAIT_S = 60.0
"""Between two tries, unless the host asks for more."""


@dataclass
class _Host:
    """The files of one host, and how it does."""

    waiting: deque[RemoteFile] = field(default_factory=deque)
    later: list[tuple[float, int, RemoteFile]] = field(default_factory=list)
    """A heap of files that are to be tried again, by time."""
    running: int = 0
    rests_until: float = 0.0
    failures: int = 0
    """In a row."""
    failing_since: float = 0.0


class Schedule:
    """Hands out files to threads: hosts in turn, each one's limit kept, rests and waits kept."""

    def __init__(self, files: Iterable[RemoteFile], params: FetchParams) -> None:
        self._params = params
        self._hosts: dict[str, _Host] = {}
        self._changed = threading.Condition()
        self._number = itertools.count()
        self._open = 0
        """Files not ended yet."""
        self._stopped = False
        for file in files:
            self._hosts.setdefault(file.host, _Host()).waiting.append(file)
            self._open += 1
        self._ready = OrderedDict.fromkeys(self._hosts)
        """Hosts that may have something to do now; others come back when something changes."""
        self._alarms: list[tuple[float, str]] = []
        """A heap of hosts by the time when they must be looked at again."""

    def take(self) -> RemoteFile | None:
        """Wait for a file that may be asked for now; None when all have ended, or at a stop."""
        with self._changed:
            while self._open and not self._stopped:
                now = time.monotonic()
                while self._alarms and self._alarms[0][0] <= now:
                    self._ready[heapq.heappop(self._alarms)[1]] = None
                while self._ready:
                    name, _ = self._ready.popitem(last=False)
                    file = self._next_of(name, now)
                    if file is not None:
                        self._ready[name] = None
                        return file
                self._changed.wait(self._alarms[0][0] - now if self._alarms else None)
            return None

    def end(self, file: RemoteFile) -> None:
        """Note that a file needs no further try."""
        with self._changed:
            self._leave(file)
            self._open -= 1

    def try_again(self, file: RemoteFile, failures: int) -> None:
        """Put a file off, for longer after each of its failures."""
        with self._changed:
            again_at = time.monotonic() + self._wait_s(failures)
            host = self._hosts[file.host]
            heapq.heappush(host.later, (again_at, next(self._number), file))
            heapq.heappush(self._alarms, (again_at, file.host))
            self._leave(file)

    def note_answer(self, name: str) -> None:
        """Note that a host does its work."""
        with self._changed:
            self._hosts[name].failures = 0

    def note_failure(self, name: str, retry_after_s: float | None) -> list[RemoteFile] | None:
        """Let a host rest: as long as it asks for, else longer after each failure in a row.

        Returns:
            None; or, where it has failed or wants to be left alone for longer than the patience,
            its files that were to come: they have ended.
        """
        with self._changed:
            host, now = self._hosts[name], time.monotonic()
            if not host.failures:
                host.failing_since = now
            if now >= host.rests_until:  # failures of files that ran side by side count once
                host.failures += 1
                host.rests_until = now + self._wait_s(host.failures)
            if retry_after_s is not None:
                host.rests_until = max(host.rests_until, now + retry_after_s)
            heapq.heappush(self._alarms, (host.rests_until, name))
            patience_s = self._params.patience_s
            if now - host.failing_since <= patience_s and (retry_after_s or 0) <= patience_s:
                return None
            dropped = [*host.waiting, *(file for _, _, file in host.later)]
            host.waiting.clear()
            host.later.clear()
            self._open -= len(dropped)
            self._changed.notify_all()
            return dropped

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _next_of(self, name: str, now: float) -> RemoteFile | None:
        """Take a file of a host if one may be asked for now."""
        host = self._hosts[name]
        while host.later and host.later[0][0] <= now:
            host.waiting.append(heapq.heappop(host.later)[2])
        busy = host.running >= self._params.connections_per_host
        if busy or now < host.rests_until or not host.waiting:
            return None
        host.running += 1
        return host.waiting.popleft()

    def _leave(self, file: RemoteFile) -> None:
        """Free the place that a file had at its host."""
        self._hosts[file.host].running -= 1
        self._ready[file.host] = None
        self._changed.notify_all()

    def _wait_s(self, failures: int) -> float:
        """Return a time that doubles with each failure, less a random part: no two ask in step."""
        longest_s = min(self._params.backoff_s * 2.0 ** min(failures - 1, 30), LONGEST_WAIT_S)
        return longest_s * random.uniform(0.5, 1.0)
