"""Work in several processes, where a crash or a hang costs one item and not the run."""

import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from vatt.core.signals import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

SPAWN = get_context("spawn")
CRASHED = "the decoder crashed: its process ended abruptly, twice"
KILL_S = 10.0
"""A process that waits for a broken disk cannot be ended: it is left alone after this."""
PAUSE_S = 3600.0
"""How long to wait at most for what may never come."""


@dataclass(frozen=True)
class Lost:
    """In place of a result: the process of the item died, or was ended because it hung."""

    reason: str


class StallLimit(NamedTuple):
    """When an item is given up: its progress has not changed for so long."""

    seconds: float
    progress: Callable[[Any], object]
    """Of an item that is being worked on; None while it waits for a free processor."""


class Attempt(NamedTuple):
    """What came of a call: the result, or the error that it raised."""

    result: Any
    error: Exception | None = None

    def unwrap(self) -> Any:
        """Return the result or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result


@runtime_checkable
class Crew(Protocol):
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
    """Call a function; an error says where it was raised, for it will travel to another process."""
    try:
        return Attempt(function(item))
    except Exception as error:  # noqa: BLE001 - it is raised where the work was started
        error.add_note(traceback.format_exc())
        return Attempt(None, error)


def work_through(
    crew: Crew, items: Sequence[Any], limit: StallLimit | None = None
) -> Generator[tuple[int, Any], None, None]:
    """Yield the place and the result of each item, in the order in which they get done.

    An item whose process died is tried once more, after all others: whoever ends processes for want
    of memory need not hit the guilty one. The second time, or when it hung, the result is `Lost`.
    What the function raises is raised here. All processes are ended when this ends.
    """
    waiting = deque(range(len(items)))
    running: dict[int, tuple[float, object]] = {}  # until when the progress must have changed
    retried = set()
    with closing(crew):
        while waiting or running:
            while waiting and len(running) < crew.size:
                index = waiting.popleft()
                crew.start(index, items[index])
                running[index] = time.monotonic() + (limit.seconds if limit else PAUSE_S), None
            soonest = min(deadline for deadline, _ in running.values())
            for index, done in crew.wait(max(0.0, soonest - time.monotonic())):
                del running[index]
                if done is not None:
                    yield index, done.unwrap()
                elif index in retried:
                    yield index, Lost(CRASHED)
                else:
                    retried.add(index)
                    waiting.append(index)
            for index in _find_stalled(running, items, limit):
                del running[index]
                crew.end(index)
                yield index, Lost(f"the decoder hung: nothing new for {limit and limit.seconds} s")


def _find_stalled(
    running: dict[int, tuple[float, object]], items: Sequence[Any], limit: StallLimit | None
) -> list[int]:
    """Return the items without progress; those that went on get a new deadline."""
    now, stalled = time.monotonic(), []
    for index, (deadline, before) in running.items():
        if deadline > now:
            continue
        progress = limit.progress(items[index]) if limit else None
        if progress is not None and progress == before:
            stalled.append(index)
        else:
            running[index] = now + (limit.seconds if limit else PAUSE_S), progress
    return stalled


def run_in_workers(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[Result | None]:
    """Yield the results of a function in the order of the items; None where its process died.

    Decoders can kill their process on a broken file. What the function raises is raised here.
    """
    done: dict[int, Result | None] = {}
    num_yielded = 0
    for index, result in work_through(LocalCrew(function, num_workers), items):
        done[index] = None if isinstance(result, Lost) else result
        while num_yielded in done:
            yield done.pop(num_yielded)
            num_yielded += 1


class LocalCrew:
    """Processes of this machine, started when they are needed.

    Each has a pipe of its own, so that one that dies, at whatever moment, takes nothing from the
    others: the pool of the standard library breaks as a whole, and cannot end one that hangs.
    """

    def __init__(self, function: Callable[[Any], Any], size: int) -> None:
        self.size = size
        self._function = function
        self._idle: list[_Worker] = []
        self._busy: dict[int, _Worker] = {}

    def start(self, index: int, item: Any) -> None:
        """See `Crew`."""
        worker = self._idle.pop() if self._idle else _Worker(self._function)
        self._busy[index] = worker
        worker.send(item)

    def wait(self, timeout_s: float) -> list[tuple[int, Attempt | None]]:
        """See `Crew`."""
        ready = wait([worker.connection for worker in self._busy.values()], timeout_s)
        finished: list[tuple[int, Attempt | None]] = []
        for index, worker in list(self._busy.items()):
            if worker.connection in ready:
                result = worker.receive()
                if result is None:
                    self.end(index)
                else:
                    self._idle.append(self._busy.pop(index))
                finished.append((index, result))
        return finished

    def end(self, index: int) -> None:
        """See `Crew`."""
        self._busy.pop(index).kill()

    def close(self) -> None:
        """See `Crew`."""
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

    def send(self, item: Any) -> None:
        """Give it an item; that it has died meanwhile shows when its answer is awaited."""
        try:
            self.connection.send(item)
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> Attempt | None:
        """Return its answer, None if it has died."""
        try:
            answer: Attempt = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return None
        return answer

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join(KILL_S)
        self.connection.close()


def _serve(function: Callable[[Any], Any], connection: "Connection[Any, Any]") -> None:
    """Answer each item with the result of the function, until there are no more."""
    _follow_parent()
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        connection.send(attempt(function, item))


def _follow_parent() -> None:
    """End with the parent, also with one that ended before this process could ask for it."""
    die_with_parent()
    parent = parent_process()
    if parent is None or os.getppid() != parent.pid:  # it was too late
        os._exit(1)
