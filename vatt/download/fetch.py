"""Fetches lists of files: in parallel, with a ledger, for as long as it takes.

The schedule: which file is asked for next, so that no host is asked too much or too soon.
"""

import errno
import heapq
import itertools
import random
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from vatt.core.disk import require_space
from vatt.corpus.manifest import MISSING
from vatt.download.archives import Store
from vatt.download.ledger import (
    FetchError,
    GoneError,
    Item,
    Ledger,
    RemoteArchive,
    RemoteFile,
    SiteVideo,
    StoppedError,
    open_ledger,
)
from vatt.download.sites import fetch_video
from vatt.download.transfer import Conditions, is_current, open_session, transfer
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


STATE_DIR = Path(".cache/download")
"""Holds the ledger and what has come in part; not an output of the pipeline."""

MUCH_BYTES = 8 * 1024 * 1024
"""A try that brought as much is no failure of the file: a large one may need many."""

BAD_PLACE = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.EISDIR)
"""Errors of one name, which must not end the run."""


def fetch_all(
    files: Sequence[RemoteFile],
    folder: Path,
    params: FetchParams,
    state_dir: Path = STATE_DIR,
    recheck: bool = False,
) -> dict[str, str | None]:
    """Fetch files to a folder, under their names, with a progress bar.

    What the ledger calls done and is there is not asked for again; with `recheck`, its server is
    asked whether it changed. Files that are there without a line in the ledger are taken as they
    are, if their digest agrees where one is given. Failures are tried again in the next run, except
    those for good: these only if `params.ask_gone_again`, or when the address changed.

    Returns:
        For each file's name: None, or why it could not be fetched.

    Raises:
        StageError: the disk is full, or another process fetches with the same `state_dir`.
    """
    with open_ledger(state_dir) as ledger:
        store = Store(folder, state_dir / "partial" / folder.name, params.min_free_gb)
        return _Run(files, store, params, ledger).fetch(recheck)


class _Run:
    """One call of `fetch_all`: what its threads share."""

    def __init__(
        self, files: Sequence[RemoteFile], store: Store, params: FetchParams, ledger: Ledger
    ) -> None:
        self._problems: dict[str, str | None] = {}
        self._files = _refuse_bad_names(files, self._problems)
        self._store, self._params, self._ledger = store, params, ledger
        self._items = ledger.open_items(store.folder.as_posix(), self._files.values())
        self._conditions = Conditions(params, self._record, threading.Event())
        self._failures: Counter[str] = Counter()
        """Of this run, by name."""
        self._lock = threading.Lock()
        self._counted_bytes = {item.number: item.num_bytes for item in self._items.values()}
        self._received_bytes = 0

    def fetch(self, recheck: bool) -> dict[str, str | None]:
        """Fetch what is missing, and ask about the rest if asked to."""
        for folder in (self._store.partial_dir, self._store.folder):
            folder.mkdir(parents=True, exist_ok=True)
        waiting = [file for file in self._files.values() if not self._settle(file, recheck)]
        self._store.remove_leftovers(self._items.values())
        items = [self._items[file.name] for file in waiting]
        num_bytes = sum(max((item.total_bytes or 0) - item.num_bytes, 0) for item in items)
        if waiting:
            require_space(self._store.partial_dir, num_bytes, self._params.min_free_gb)
        self._schedule = Schedule(waiting, self._params)
        done = len(self._problems)
        title, total = self._store.folder.name, done + len(waiting)
        with tqdm(desc=title, total=total, initial=done, unit="file") as self._bar:
            if waiting:
                self._run_threads(min(self._params.connections, len(waiting)))
        self._store.remove_leftovers(self._items.values())
        return self._problems

    def _settle(self, file: RemoteFile, recheck: bool) -> bool:
        """Say what can be said of a file without asking for it; False if it must be asked for."""
        item = self._items[file.name]
        if item.address != file.identity:
            self._store.drop(item)
            item.address, item.gone, item.tries = file.identity, False, 0
            self._ledger.record(item)
        elif item.changed_at == 0 and self._store.adopt(file, item):
            self._ledger.record(item)
        if item.state == "failed" and item.gone and not self._params.ask_gone_again:
            self._problems[file.name] = item.reason
            return True
        if item.state == "done" and not self._store.holds(file, item):
            self._store.drop(item)
        if item.state == "done" and not recheck:
            self._problems[file.name] = None
            return True
        return False

    def _run_threads(self, num_threads: int) -> None:
        """Let threads take files until none is left, or one of them fails."""
        with ThreadPoolExecutor(num_threads) as pool:
            threads = [pool.submit(self._work) for _ in range(num_threads)]
            try:
                wait(threads, return_when=FIRST_EXCEPTION)
            finally:
                self._conditions.stopped.set()
                self._schedule.stop()
        errors = [error for thread in threads if (error := thread.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
            raise error

    def _work(self) -> None:
        """Fetch one file after the other."""
        with open_session() as session:
            while (file := self._schedule.take()) is not None:
                self._try(session, file)

    def _try(self, session: requests.Session, file: RemoteFile) -> None:
        """Try one file once; then it has ended, or is put off."""
        item = self._items[file.name]
        before = item.num_bytes
        try:
            if item.state != "done" or not is_current(session, file, item, self._conditions):
                item.tries += 1
                self._fetch(session, file, item)
        except GoneError as error:
            self._store.drop(item)
            self._schedule.note_answer(file.host)
            self._end(file, error)
        except OSError as error:
            if error.errno not in BAD_PLACE:
                raise
            self._store.drop(item)
            self._end(file, GoneError(f"it cannot be written under its name: {error.strerror}"))
        except FetchError as error:
            # Much came, or the host named the time itself: that is no failure of the file.
            if item.num_bytes - before < MUCH_BYTES and error.retry_after_s is None:
                self._failures[file.name] += 1
            self._put_off(file, error)
        else:
            self._schedule.note_answer(file.host)
            self._end(file, None)

    def _fetch(self, session: requests.Session, file: RemoteFile, item: Item) -> None:
        """Bring all bytes, check them, and put them in their place."""
        partial = self._store.partial(item)
        if isinstance(file, SiteVideo):
            made = fetch_video(file, self._store.site_dir(item), self._conditions)
            item.num_bytes = item.total_bytes = made.stat().st_size
            made.replace(partial)
        else:
            transfer(session, file, item, partial, self._conditions)
        target = self._store.keep(file, item)
        self._record(item)
        if not isinstance(file, RemoteArchive):
            self._store.place(partial, target)

    def _put_off(self, file: RemoteFile, error: FetchError) -> None:
        """Let a file be tried again, unless that was its last try, or its host is given up."""
        dropped = None
        if error.host_failed:
            dropped = self._schedule.note_failure(file.host, error.retry_after_s)
        else:
            self._schedule.note_answer(file.host)
        item, failures = self._items[file.name], self._failures[file.name]
        if dropped is None and failures < self._params.tries:
            item.reason = error.reason
            self._record(item)
            self._schedule.try_again(file, failures)
            return
        self._end(file, error)
        for other in dropped or []:
            self._note(other, FetchError(f"its host was left for the next run: {error.reason}"))

    def _end(self, file: RemoteFile, error: FetchError | None) -> None:
        self._note(file, error)
        self._schedule.end(file)

    def _note(self, file: RemoteFile, error: FetchError | None) -> None:
        """Write down how a file ended."""
        item = self._items[file.name]
        if error is not None:
            item.state, item.gone = "failed", isinstance(error, GoneError)
            is_missing = item.gone and isinstance(file, SiteVideo)
            item.reason = f"{MISSING if is_missing else 'cannot be fetched: '}{error.reason}"
            self._record(item)
        with self._lock:
            self._problems[file.name] = item.reason if error else None
            self._bar.update()

    def _record(self, item: Item) -> None:
        """Write a row of the ledger, and show how much has come."""
        self._ledger.record(item)
        with self._lock:
            self._received_bytes += max(item.num_bytes - self._counted_bytes[item.number], 0)
            self._counted_bytes[item.number] = item.num_bytes
            self._bar.set_postfix_str(f"{self._received_bytes / 1e9:.2f} GB", refresh=False)
            self._bar.update(0)


def _refuse_bad_names(
    files: Sequence[RemoteFile], problems: dict[str, str | None]
) -> dict[str, RemoteFile]:
    """Return the files by name; names and addresses that cannot be used become problems."""
    named: dict[str, RemoteFile] = {}
    for file in files:
        problem = file.problem()
        if named.setdefault(file.name, file) != file:
            problem = "the name is given more than once, for different files"
        if problem:
            problems[file.name] = problem
    good = named.keys() - problems.keys()
    for name in good:
        if any(str(parent) in good for parent in PurePosixPath(name).parents):
            problems[name] = "its folder has the name of another file"
    return {name: file for name, file in named.items() if name not in problems}
