"""Work in several processes, where a crash or a hang costs one item and not the run.

A pool works on one item in each process: `LocalPool` here, `RayPool` in `vatt.preprocess.ray_pool`.
`work_through` hands out the items, tries again those whose process died, and gives up what hangs.
"""

import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from vatt.core.signals import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

SPAWN = get_context("spawn")
CRASHED = "the decoder crashed: its process ended abruptly, twice"
KILL_S = 10.0
"""A process that waits for a broken disk cannot be ended: it is left alone after this."""


@dataclass(frozen=True)
class Lost:
    """In place of a result: the process of the item died, or was ended because it hung."""

    reason: str


class StallLimit(NamedTuple):
    """When an item is given up: its progress has not changed for so long."""

    seconds: float
    progress: Callable[[Any], object]
    """Measures an item that is being worked on; None while it waits for a free processor."""


UNLIMITED = StallLimit(3600.0, lambda _item: None)


class Attempt(NamedTuple):
    """What came of a call: the result, or the error that it raised."""

    result: Any
    error: Exception | None = None


@runtime_checkable
class Pool(Protocol):
    """Processes that work on one item each."""

    @property
    def size(self) -> int:
        """How many items may be worked on at once."""

    def start(self, index: int, item: Any) -> None:
        """Begin to work on an item; fewer than `size` are being worked on."""

    def wait(self, timeout_s: float) -> list[tuple[int, Attempt | None]]:
        """Return the items that are done, after a while at the latest; None: its process died."""

    def end(self, index: int) -> None:
        """Stop to work on an item, whatever it does."""

    def close(self) -> None:
        """End all processes at once."""


def attempt(function: Callable[[Any], Any], item: Any) -> Attempt:
    """Call a function; an error notes where it was raised, for it will travel between processes."""
    try:
        return Attempt(function(item))
    except Exception as error:  # noqa: BLE001 - it is raised where the work was started
        error.add_note(traceback.format_exc())
        return Attempt(None, error)


def work_through(
    pool: Pool, items: Sequence[Any], limit: StallLimit = UNLIMITED
) -> Generator[tuple[int, Any], None, None]:
    """Yield the index and the result of each item, in the order in which they get done.

    An item whose process died is tried once more, after all others: the system, short of memory,
    may have killed the wrong one. The second time, or when the item hung, the result is `Lost`.
    What the function raises is raised here. All processes are ended when this ends.
    """
    waiting = deque(range(len(items)))
    running: dict[int, tuple[float, object]] = {}  # until when the progress must have changed
    retried = set()
    with closing(pool):
        while waiting or running:
            while waiting and len(running) < pool.size:
                index = waiting.popleft()
                pool.start(index, items[index])
                running[index] = time.monotonic() + limit.seconds, None
            soonest = min(deadline for deadline, _ in running.values())
            for index, done in pool.wait(max(0.0, soonest - time.monotonic())):
                del running[index]
                if done is not None:
                    if done.error is not None:
                        raise done.error
                    yield index, done.result
                elif index in retried:
                    yield index, Lost(CRASHED)
                else:
                    retried.add(index)
                    waiting.append(index)
            now = time.monotonic()
            for index in [index for index, (deadline, _) in running.items() if deadline <= now]:
                progress = limit.progress(items[index])
                if progress is None or progress != running[index][1]:
                    running[index] = now + limit.seconds, progress
                    continue
                del running[index]
                pool.end(index)
                yield index, Lost(f"the decoder hung: nothing new for {limit.seconds} s")


def run_in_workers(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[Result | None]:
    """Yield the results of a function in the order of the items; None where its process died.

    Decoders can kill their process on a broken file. What the function raises is raised here.
    """
    done: dict[int, Result | None] = {}
    num_yielded = 0
    for index, result in work_through(LocalPool(function, num_workers), items):
        done[index] = None if isinstance(result, Lost) else result
        while num_yielded in done:
            yield done.pop(num_yielded)
            num_yielded += 1


class LocalPool:
    """Processes of this machine, started when they are needed.

    Each has a pipe of its own, so that one that dies, at whatever moment, takes nothing from the
    others. The pools of the standard library and of Pebble share theirs: they break as a whole, or
    hang, when a process is killed while it reads or answers (docs/decisions.md).
    """

    def __init__(self, function: Callable[[Any], Any], size: int) -> None:
        self.size = size
        self._function = function
        self._idle: list[_Worker] = []
        self._busy: dict[int, _Worker] = {}

    def start(self, index: int, item: Any) -> None:
        """See `Pool`."""
        worker = self._idle.pop() if self._idle else _Worker(self._function)
        self._busy[index] = worker
        with suppress(BrokenPipeError, ConnectionResetError):  # dead: `wait` will notice
            worker.connection.send(item)

    def wait(self, timeout_s: float) -> list[tuple[int, Attempt | None]]:
        """See `Pool`."""
        ready = wait([worker.connection for worker in self._busy.values()], timeout_s)
        finished: list[tuple[int, Attempt | None]] = []
        for index, worker in list(self._busy.items()):
            if worker.connection not in ready:
                continue
            try:
                finished.append((index, worker.connection.recv()))
                self._idle.append(self._busy.pop(index))
            except (EOFError, OSError):  # it died, before or while it answered
                finished.append((index, None))
                self.end(index)
        return finished

    def end(self, index: int) -> None:
        """See `Pool`."""
        self._busy.pop(index).kill()

    def close(self) -> None:
        """See `Pool`."""
        for worker in [*self._idle, *self._busy.values()]:
            worker.kill()
        self._idle.clear()
        self._busy.clear()


class _Worker:
    """A process that calls a function, and the pipe to it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(function, theirs), daemon=True)
        # Ctrl-C reaches all processes of a terminal. This one alone is to act on it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join(KILL_S)
        self.connection.close()


def _serve(function: Callable[[Any], Any], connection: "Connection[Any, Any]") -> None:
    """Answer each item with the result of the function, until there are no more."""
    die_with_parent()
    with suppress(EOFError):
        while True:
            connection.send(attempt(function, connection.recv()))
