"""Fetches lists of files: many at once, with a ledger, for as long as it takes.

Each host's files wait in a heap of its own, and as many workers take from it as the host may have
connections; all workers share the connections of the run. A host that fails rests.
"""

import asyncio
import errno
import heapq
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from vatt.core.disk import require_space
from vatt.core.errors import backoff_s
from vatt.corpus.manifest import MISSING
from vatt.download.ledger import Arrivals, Ledger, LedgerRow, open_ledger
from vatt.download.remote_files import (
    FetchError,
    GoneError,
    HostError,
    RemoteArchive,
    RemoteFile,
    SiteVideo,
    check_remote,
)
from vatt.download.sites import fetch_video
from vatt.download.transfer import Client, open_session
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
    asked whether it changed. Files that are there without a row in the ledger are taken as they
    are, if their digest agrees where one is given. Failures are tried again in the next run, except
    those for good: these only if `params.ask_gone_again`, or when the address changed.

    Returns:
        For each file's name: None, or why it could not be fetched.

    Raises:
        StageError: the disk is full, or another process fetches with the same `state_dir`.
    """
    with open_ledger(state_dir) as ledger:
        arrivals = Arrivals(folder, state_dir / "partial" / folder.name, params.min_free_gb)
        return _FetchRun(files, arrivals, params, ledger).fetch(recheck)


@dataclass
class _Host:
    """The files of one host, and how it does."""

    waiting: list[tuple[float, int, RemoteFile]] = field(default_factory=list)
    """A heap: when a file may be asked for, its place in the list, the file."""
    rests_until: float = 0.0
    failures: int = 0
    """In a row."""
    failing_since: float = 0.0
    given_up: str | None = None
    """Why its files are left to the next run."""


class _FetchRun:
    """One call of `fetch_all`: what its workers share."""

    def __init__(
        self, files: Sequence[RemoteFile], arrivals: Arrivals, params: FetchParams, ledger: Ledger
    ) -> None:
        self._problems: dict[str, str | None] = {}
        self._files = _refuse_bad_names(files, self._problems)
        self._arrivals, self._params, self._ledger = arrivals, params, ledger
        self._rows = ledger.open_rows(arrivals.folder.as_posix(), self._files.values())
        self._stopped = threading.Event()
        self._failures: Counter[str] = Counter()
        """How often each file failed in this run."""
        self._counted_bytes = {row.number: row.num_bytes for row in self._rows.values()}
        self._received_bytes = 0

    def fetch(self, recheck: bool) -> dict[str, str | None]:
        """Fetch what is missing, and ask about the rest if asked to."""
        partial_dir, folder = self._arrivals.partial_dir, self._arrivals.folder
        partial_dir.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        waiting = [file for file in self._files.values() if not self._settle(file, recheck)]
        self._arrivals.remove_leftovers(self._rows.values())
        if waiting:
            rows = [self._rows[file.name] for file in waiting]
            num_bytes = sum(max((row.total_bytes or 0) - row.num_bytes, 0) for row in rows)
            require_space(partial_dir, num_bytes, self._params.min_free_gb)
        done = len(self._problems)
        total = done + len(waiting)
        with tqdm(desc=folder.name, total=total, initial=done, unit="file") as self._bar:
            if waiting:
                try:
                    asyncio.run(self._run_workers(waiting))
                except BaseExceptionGroup as group:
                    raise group.exceptions[0] from None
        self._arrivals.remove_leftovers(self._rows.values())
        return self._problems

    def _settle(self, file: RemoteFile, recheck: bool) -> bool:
        """Settle a file without asking for it; return False if it must be asked for."""
        row = self._rows[file.name]
        if row.address != file.identity:
            self._arrivals.drop(row)
            row.address, row.gone, row.tries = file.identity, False, 0
            self._ledger.record(row)
        elif row.changed_at == 0 and self._arrivals.adopt(file, row):
            self._ledger.record(row)
        if row.state == "failed" and row.gone and not self._params.ask_gone_again:
            self._problems[file.name] = row.reason
            return True
        if row.state == "done" and not self._arrivals.holds(file, row):
            self._arrivals.drop(row)
        if row.state == "done" and not recheck:
            self._problems[file.name] = None
            return True
        return False

    async def _run_workers(self, files: Sequence[RemoteFile]) -> None:
        """Let workers fetch files until none is left, or one of them fails."""
        hosts: defaultdict[str, _Host] = defaultdict(_Host)
        for number, file in enumerate(files):
            hosts[file.host].waiting.append((0.0, number, file))
        self._connections = asyncio.Semaphore(self._params.connections)
        threads = ThreadPoolExecutor(self._params.connections)
        asyncio.get_running_loop().set_default_executor(threads)
        try:
            async with open_session(self._params) as session, asyncio.TaskGroup() as workers:
                self._client = Client(session, self._params, self._record)
                for host in hosts.values():  # a task for each of a million files would take GBs
                    for _ in range(min(self._params.connections_per_host, len(host.waiting))):
                        workers.create_task(self._work(host))
        finally:
            self._stopped.set()

    async def _work(self, host: _Host) -> None:
        """Fetch files of a host one after the other."""
        while host.waiting:
            asked_at, number, file = heapq.heappop(host.waiting)
            while host.given_up is None:
                rest_s = max(asked_at, host.rests_until) - time.monotonic()
                if rest_s <= 0:
                    break
                await asyncio.sleep(min(rest_s, 1.0))  # it may be given up meanwhile
            async with self._connections:
                if host.given_up is not None:
                    self._note(file, FetchError(host.given_up))
                elif time.monotonic() < host.rests_until:  # since it waits for a connection
                    heapq.heappush(host.waiting, (asked_at, number, file))
                elif (wait_s := await self._try(host, file)) is not None:
                    heapq.heappush(host.waiting, (time.monotonic() + wait_s, number, file))

    async def _try(self, host: _Host, file: RemoteFile) -> float | None:
        """Try a file once; return the seconds until it may be tried again, None if it has ended."""
        row, error = self._rows[file.name], None
        before = row.num_bytes
        try:
            if row.state != "done" or not await self._client.is_current(file, row):
                row.tries += 1
                await self._fetch(file, row)
        except GoneError as gone:
            error = gone
        except FetchError as failure:
            # Much came, or the host named the time itself: that is no failure of the file.
            is_failure = row.num_bytes - before < MUCH_BYTES and failure.retry_after_s is None
            self._failures[file.name] += is_failure
            return self._put_off(host, file, failure)
        except OSError as bad:
            if bad.errno not in BAD_PLACE:
                raise
            error = GoneError(f"it cannot be written under its name: {bad.strerror}")
        if error is not None:
            self._arrivals.drop(row)
        host.failures = 0
        self._note(file, error)
        return None

    async def _fetch(self, file: RemoteFile, row: LedgerRow) -> None:
        """Bring all bytes, check them, and move them to their place."""
        partial = self._arrivals.partial(row)
        if isinstance(file, SiteVideo):
            site_dir = self._arrivals.site_dir(row)
            made = await asyncio.to_thread(fetch_video, file, site_dir, self._params, self._stopped)
            row.num_bytes = row.total_bytes = made.stat().st_size
            made.replace(partial)
        else:
            await self._client.transfer(file, row, partial)
        # Digests of large files, archives and other disks take minutes: others go on.
        target = await asyncio.to_thread(self._arrivals.keep, file, row)
        self._record(row)
        if not isinstance(file, RemoteArchive):
            await asyncio.to_thread(self._arrivals.move, partial, target)

    def _put_off(self, host: _Host, file: RemoteFile, error: FetchError) -> float | None:
        """Return the seconds to the next try of a file, None if there is none in this run.

        A host that failed rests: as long as it asks for, else longer after each failure in a row.
        Where it failed, or asks to be left alone, for longer than the patience, it is given up.
        """
        now, asked_s = time.monotonic(), error.retry_after_s or 0.0
        if not isinstance(error, HostError):
            host.failures = 0
        else:
            if not host.failures:
                host.failing_since = now
            if now >= host.rests_until:  # failures of files that ran side by side count once
                host.failures += 1
                host.rests_until = now + backoff_s(self._params.backoff_s, host.failures)
            host.rests_until = max(host.rests_until, now + asked_s)
            if max(now - host.failing_since, asked_s) > self._params.patience_s:
                host.given_up = f"its host was left for the next run: {error.reason}"
        row, failures = self._rows[file.name], self._failures[file.name]
        if host.given_up is not None or failures >= self._params.tries:
            self._note(file, error)
            return None
        row.reason = error.reason
        self._record(row)
        return backoff_s(self._params.backoff_s, failures)

    def _note(self, file: RemoteFile, error: FetchError | None) -> None:
        """Write down how a file ended."""
        row = self._rows[file.name]
        if error is not None:
            row.state, row.gone = "failed", isinstance(error, GoneError)
            is_missing = row.gone and isinstance(file, SiteVideo)
            row.reason = f"{MISSING if is_missing else 'cannot be fetched: '}{error.reason}"
            self._record(row)
        self._problems[file.name] = row.reason if error else None
        self._bar.update()

    def _record(self, row: LedgerRow) -> None:
        """Write a row of the ledger, and show how much has come."""
        self._ledger.record(row)
        self._received_bytes += max(row.num_bytes - self._counted_bytes[row.number], 0)
        self._counted_bytes[row.number] = row.num_bytes
        self._bar.set_postfix_str(f"{self._received_bytes / 1e9:.2f} GB", refresh=False)
        self._bar.update(0)


def _refuse_bad_names(
    files: Sequence[RemoteFile], problems: dict[str, str | None]
) -> dict[str, RemoteFile]:
    """Return the files by name; names and addresses that cannot be used become problems."""
    named: dict[str, RemoteFile] = {}
    for file in files:
        problem = check_remote(file)
        if named.setdefault(file.name, file) != file:
            problem = "the name is given more than once, for different files"
        if problem:
            problems[file.name] = problem
    good = named.keys() - problems.keys()
    for name in good:
        if any(str(parent) in good for parent in PurePosixPath(name).parents):
            problems[name] = "its folder has the name of another file"
    return {name: file for name, file in named.items() if name not in problems}
