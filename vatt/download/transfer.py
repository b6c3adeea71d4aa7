"""One try to fetch a file over http, from where an earlier one ended."""

import asyncio
import os
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import aiohttp
import yarl

from vatt.core.disk import name_disk_errors, require_space
from vatt.download.ledger import LedgerRow
from vatt.download.remote_files import FetchError, GoneError, HostError, RemoteFile, describe
from vatt.params import FetchParams

CONNECT_S = 30.0
MAX_REDIRECTS = 10
CHECKPOINT_BYTES, CHECKPOINT_S = 64 * 1024 * 1024, 5.0
"""How much a kill may cost: then the bytes are forced to disk and counted in the ledger."""
SLOWEST_BYTES_PER_S = 1000
REFUSED = frozenset({400, 401, 404, 405, 406, 410, 414, 451})
"""Answers that stay the same: 403 is none of them, as many hosts mean "too often" by it."""
BUSY = frozenset({429, 503})


def open_session(params: FetchParams) -> aiohttp.ClientSession:
    """Open connections for all tries of a run: proxies as the environment says."""
    connect_s = min(CONNECT_S, params.stall_s)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # the schedule keeps the limits
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_s, sock_read=params.stall_s),
        trust_env=True,
        # Ranges and lengths must be those of the file's own bytes, not of what a server makes of
        # them.
        headers={"Accept-Encoding": "identity", "User-Agent": "vatt (fetching media)"},
        auto_decompress=False,
    )


@dataclass(frozen=True)
class Client:
    """Asks servers for files."""

    session: aiohttp.ClientSession
    params: FetchParams
    record: Callable[[LedgerRow], None]
    """Writes a row of the ledger."""

    async def is_current(self, file: RemoteFile, row: LedgerRow) -> bool:
        """Ask whether a fetched file is still what its address holds; no byte of it comes again.

        Where nothing names the bytes, their number counts; a host that fails changes nothing.
        """
        headers = {}
        if row.validator:
            is_tag = row.validator.startswith('"')
            headers["If-None-Match" if is_tag else "If-Modified-Since"] = row.validator
        try:
            async with await self._ask(file, headers) as response:
                if response.status != 200:
                    return True
                if row.validator:
                    return _validator(response) == row.validator
                return response.content_length in (None, row.num_bytes)
        except FetchError:
            return True

    async def transfer(self, file: RemoteFile, row: LedgerRow, partial: Path) -> None:
        """Fetch a file, or the rest of it, to `partial`; the row says at any time what is there.

        Raises:
            FetchError: it did not come, or not all of it; what came is kept if it is of use.
            StageError: the disk is full.
        """
        here = _count_bytes(partial, row)
        if here and here == row.total_bytes:
            return
        headers = {}
        if here and (row.validator or file.sha256 or file.md5):
            headers["Range"] = f"bytes={here}-"
            if row.validator:
                headers["If-Range"] = row.validator
        async with await self._ask(file, headers) as response:
            _check_status(response, row, asked_range="Range" in headers)
            if response.status == 206:
                _check_range(response, row, here)
            else:
                here = 0
                row.forget()
                row.validator, row.total_bytes = _validator(response), response.content_length
            row.state, row.num_bytes = "partial", here
            missing = (row.total_bytes or here) - here
            require_space(partial.parent, missing, self.params.min_free_gb)
            self.record(row)
            with name_disk_errors(partial), partial.open("r+b" if here else "wb") as written:
                await self._receive(response, row, written)
        if row.total_bytes is not None and row.num_bytes != row.total_bytes:
            raise FetchError(f"{row.num_bytes} of {row.total_bytes} bytes arrived")
        row.total_bytes = row.num_bytes
        self.record(row)

    async def _ask(self, file: RemoteFile, headers: dict[str, str]) -> aiohttp.ClientResponse:
        # Escapes in the address stay as they are: signatures of addresses count them.
        address = quote(file.address, safe="%/?#[]@:!$&'()*+,;=~")
        try:
            url = yarl.URL(address, encoded=True)
            return await self.session.get(url, headers=headers, max_redirects=MAX_REDIRECTS)
        except aiohttp.TooManyRedirects as error:
            raise GoneError(f"more than {MAX_REDIRECTS} redirects") from error
        except TimeoutError as error:
            raise HostError(f"no answer within {self.params.stall_s:g} s") from error
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
            raise GoneError(f"the address cannot be used: {describe(error)}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise HostError(f"no connection: {_describe_root(error)}") from error

    async def _receive(
        self, response: aiohttp.ClientResponse, row: LedgerRow, file: BinaryIO
    ) -> None:
        """Append what comes at `row.num_bytes`; at the end, however it comes, count the bytes.

        Raises:
            FetchError: the connection broke, or nothing came for too long, or too little.
        """
        file.truncate(row.num_bytes)
        file.seek(row.num_bytes)
        stall_s, synced_at = self.params.stall_s, time.monotonic()
        window_at, window_bytes = synced_at, row.num_bytes
        try:
            while chunk := await self._read(response):
                file.write(chunk)
                now, num_bytes = time.monotonic(), file.tell()
                if now > window_at + stall_s:
                    if num_bytes - window_bytes < SLOWEST_BYTES_PER_S * stall_s:
                        came = num_bytes - window_bytes
                        raise FetchError(f"stalled: {came} bytes in {stall_s:g} s")
                    window_at, window_bytes = now, num_bytes
                if num_bytes - row.num_bytes >= CHECKPOINT_BYTES or now - synced_at >= CHECKPOINT_S:
                    require_space(Path(file.name).parent, 0, self.params.min_free_gb)
                    await self._checkpoint(row, file)
                    synced_at = now
        finally:
            await self._checkpoint(row, file)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return bytes as soon as some are there; none at the end."""
        try:
            return await response.content.readany()
        except TimeoutError as error:
            raise FetchError(f"stalled: no bytes for {self.params.stall_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            if response.content_length is not None:
                return b""  # `transfer` counts, and says it better
            raise FetchError(f"broken off: {_describe_root(error)}") from error

    async def _checkpoint(self, row: LedgerRow, file: BinaryIO) -> None:
        """Force the bytes to disk, in a thread, so that others go on; then count them."""
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
        row.num_bytes = file.tell()
        self.record(row)


def _count_bytes(partial: Path, row: LedgerRow) -> int:
    """Return how many bytes are here that the ledger knows."""
    return min(partial.stat().st_size if partial.exists() else 0, row.num_bytes)


def _check_status(response: aiohttp.ClientResponse, row: LedgerRow, asked_range: bool) -> None:
    """Let answers with a file pass, and raise all others as what they mean."""
    status = response.status
    reason = f"the server answers {status} {response.reason}".strip()
    if status == 416 or (status == 206 and not asked_range):
        row.forget()
        raise FetchError(reason)
    if status in REFUSED:
        raise GoneError(reason)
    if status in BUSY or status >= 500:
        raise HostError(reason, _retry_after_s(response))
    if status not in (200, 206):
        raise FetchError(reason)


def _check_range(response: aiohttp.ClientResponse, row: LedgerRow, start: int) -> None:
    """Refuse a rest that does not belong to what is here: of another place, or of other bytes."""
    text = response.headers.get("Content-Range", "").strip()
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text)
    is_next = (
        found and int(found[1]) == start and found[2] in ("*", str(row.total_bytes or found[2]))
    )
    if not is_next or _validator(response) not in (None, row.validator):
        row.forget()
        raise FetchError("the file changed on the server, or its range is not what was asked for")


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """Return what names exactly these bytes: a strong ETag, else the date of the change."""
    tag = response.headers.get("ETag", "").strip()
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    """Return how long the host asks to wait, in seconds from now; it may give a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def _describe_root(error: BaseException) -> str:
    """Describe the error at the bottom: those above it repeat the address."""
    while isinstance(cause := error.__cause__ or error.__context__, Exception):
        error = cause
    number = getattr(error, "errno", None) or 0
    if number > 0 and not isinstance(error, ssl.SSLError):  # asyncio writes the address as words
        return os.strerror(number)
    return describe(error)
