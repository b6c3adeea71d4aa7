"""Fetches lists of files: in parallel, with a ledger, for as long as it takes."""

import errno
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from vatt.data.manifest import MISSING
from vatt.data.sources.fetching.disk import require_space
from vatt.data.sources.fetching.ledger import Item, Ledger, open_ledger
from vatt.data.sources.fetching.remote_file import (
    FetchError,
    GoneError,
    RemoteArchive,
    RemoteFile,
    SiteVideo,
    StoppedError,
)
from vatt.data.sources.fetching.schedule import Schedule
from vatt.data.sources.fetching.sites import fetch_video
from vatt.data.sources.fetching.store import Store
from vatt.data.sources.fetching.transfer import (
    Conditions,
    is_current,
    open_session,
    transfer,
)
from vatt.params import FetchParams

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
