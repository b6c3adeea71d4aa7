"""One try to fetch a file over http, from where an earlier one ended."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
import urllib3

from vatt.core.disk import name_full_disk, require_space
from vatt.download.ledger import (
    FetchError,
    GoneError,
    HostError,
    Item,
    RemoteFile,
    StoppedError,
    describe,
)
from vatt.params import FetchParams

CONNECT_S = 30.0
CHECKPOINT_BYTES, CHECKPOINT_S = 64 * 1024 * 1024, 5.0
"""How much a kill may cost: then the bytes are forced to disk and counted in the ledger."""
SLOWEST_BYTES_PER_S = 1000
REFUSED = frozenset({400, 401, 405, 406, 410, 414, 451, 404})
"""Answers that stay the same: 403 is none of them, as many hosts mean "too often" by it."""
BUSY = frozenset({429, 503})


@dataclass(frozen=True)
class Conditions:
    """What a try needs beside the file: it is the same for all of them."""

    params: FetchParams
    record: Callable[[Item], None]
    """Writes a row of the ledger."""
    stopped: threading.Event


def open_session() -> requests.Session:
    """Open connections for one thread: proxies as the environment says, at most ten redirects."""
    session = requests.Session()
    session.max_redirects = 10
    # Ranges and lengths must be those of the file's own bytes, not of what a server makes of them.
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": "vatt (fetching media)"})
    return session


def is_current(
    session: requests.Session, file: RemoteFile, item: Item, conditions: Conditions
) -> bool:
    """Ask whether a fetched file is still what its address holds; no byte of it comes again.

    Where nothing names the bytes, their number counts; a host that fails changes nothing.
    """
    headers = {}
    if item.validator:
        is_tag = item.validator.startswith('"')
        headers["If-None-Match" if is_tag else "If-Modified-Since"] = item.validator
    try:
        with _ask(session, file, headers, conditions) as response:
            if response.status_code != 200:
                return True
            if item.validator:
                return _validator(response) == item.validator
            return _length(response) in (None, item.num_bytes)
    except FetchError:
        return True


def transfer(
    session: requests.Session, file: RemoteFile, item: Item, partial: Path, conditions: Conditions
) -> None:
    """Fetch a file, or the rest of it, to `partial`; the row says at any time what is there.

    Raises:
        FetchError: it did not come, or not all of it; what came is kept if it is of use.
        StageError: the disk is full.
        StoppedError: `conditions.stopped` was set.
    """
    here = min(partial.stat().st_size if partial.exists() else 0, item.num_bytes)
    if here and here == item.total_bytes:
        return
    headers = {}
    if here and (item.validator or file.sha256 or file.md5):
        headers = {"Range": f"bytes={here}-"}
        if item.validator:
            headers["If-Range"] = item.validator
    with _ask(session, file, headers, conditions) as response:
        _check_status(response, item)
        start = here if response.status_code == 206 else 0
        if start:
            _check_range(response, item, start)
        else:
            item.forget()
            item.validator, item.total_bytes = _validator(response), _length(response)
        item.state, item.num_bytes = "partial", start
        missing = (item.total_bytes or start) - start
        require_space(partial.parent, missing, conditions.params.min_free_gb)
        conditions.record(item)
        _write(_read(response, conditions), item, partial, conditions)
    if item.total_bytes is not None and item.num_bytes != item.total_bytes:
        raise FetchError(f"{item.num_bytes} of {item.total_bytes} bytes arrived")
    item.total_bytes = item.num_bytes
    conditions.record(item)


def _ask(
    session: requests.Session, file: RemoteFile, headers: dict[str, str], conditions: Conditions
) -> requests.Response:
    timeout = (min(CONNECT_S, conditions.params.stall_s), conditions.params.stall_s)
    try:
        return session.get(file.address, headers=headers, stream=True, timeout=timeout)
    except requests.TooManyRedirects as error:
        raise GoneError(f"more than {session.max_redirects} redirects") from error
    except (requests.Timeout, TimeoutError) as error:
        raise HostError(f"no answer within {conditions.params.stall_s:g} s") from error
    except ValueError as error:  # of requests, too: an address, also of a redirect, that is none
        raise GoneError(f"the address cannot be used: {describe(error)}") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise HostError(f"no connection: {_root_of(error)}") from error


def _check_status(response: requests.Response, item: Item) -> None:
    """Tell answers with a file from all others."""
    status = response.status_code
    reason = f"the server answers {status} {response.reason}".strip()
    if status == 416 or (status == 206 and "Range" not in response.request.headers):
        item.forget()
        raise FetchError(reason)
    if status in REFUSED:
        raise GoneError(reason)
    if status in BUSY or status >= 500:
        raise HostError(reason, _retry_after_s(response))
    if status not in (200, 206):
        raise FetchError(reason)


def _check_range(response: requests.Response, item: Item, start: int) -> None:
    """Refuse a rest that does not belong to what is here: it begins elsewhere, or is of other bytes."""
    pattern = r"bytes (\d+)-(\d+)/(\d+|\*)"
    found = re.fullmatch(pattern, response.headers.get("Content-Range", "").strip())
    same_place = found is not None and int(found[1]) == start
    same_total = found is not None and found[3] in ("*", str(item.total_bytes or found[3]))
    same_bytes = _validator(response) in (None, item.validator)
    if same_place and same_total and same_bytes:
        return
    item.forget()
    raise FetchError("the file changed on the server, or its range is not what was asked for")


def _read(response: requests.Response, conditions: Conditions) -> Iterator[bytes]:
    """Yield the bytes as they come.

    Raises:
        FetchError: the connection broke, or none came for too long, or too few.
        StoppedError: fetching was stopped.
    """
    stall_s = conditions.params.stall_s
    window_ends, num_bytes = time.monotonic() + stall_s, 0
    response.raw.enforce_content_length = False  # `transfer` counts, and says it better
    while True:
        try:
            chunk = response.raw.read1(1024 * 1024, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise FetchError(f"stalled: no bytes for {stall_s:g} s") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise FetchError(f"broken off: {_root_of(error)}") from error
        if not chunk:
            return
        yield chunk
        if conditions.stopped.is_set():
            raise StoppedError
        num_bytes += len(chunk)
        now = time.monotonic()
        if now > window_ends:
            if num_bytes < SLOWEST_BYTES_PER_S * stall_s:
                raise FetchError(f"stalled: {num_bytes} bytes in {stall_s:g} s")
            window_ends, num_bytes = now + stall_s, 0


def _write(chunks: Iterator[bytes], item: Item, partial: Path, conditions: Conditions) -> None:
    """Append to the partial file at `item.num_bytes`; at the end, however it comes, count the bytes."""
    mode = "r+b" if partial.exists() else "wb"
    with name_full_disk(partial), partial.open(mode) as file:
        file.truncate(item.num_bytes)
        file.seek(item.num_bytes)
        unsynced, synced_at = 0, time.monotonic()

        def checkpoint() -> None:
            file.flush()
            os.fsync(file.fileno())
            item.num_bytes = file.tell()
            conditions.record(item)

        try:
            for chunk in chunks:
                file.write(chunk)
                unsynced += len(chunk)
                now = time.monotonic()
                if unsynced >= CHECKPOINT_BYTES or now - synced_at >= CHECKPOINT_S:
                    require_space(partial.parent, 0, conditions.params.min_free_gb)
                    checkpoint()
                    unsynced, synced_at = 0, now
        finally:
            checkpoint()


def _validator(response: requests.Response) -> str | None:
    """Return what names exactly these bytes: a strong ETag, else the date of the change."""
    tag: str = response.headers.get("ETag", "").strip()
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdecimal() else None


def _retry_after_s(response: requests.Response) -> float | None:
    """Return how long the host asks to wait, in seconds from now; it may give a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def _root_of(error: BaseException) -> str:
    """Describe the error at the bottom: those above it repeat the address."""
    while isinstance(cause := error.__cause__ or error.__context__, Exception):
        error = cause
    return describe(error)
