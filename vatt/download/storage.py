"""The files of a local or remote folder (fsspec): listed, and fetched where they are remote."""

import os
import time
from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote

import aiohttp
import fsspec
from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from vatt.core.disk import is_refusal, name_disk_errors, require_space
from vatt.core.errors import StageError, backoff_s
from vatt.core.files import atomic_path
from vatt.download import fetch
from vatt.download.remote_files import RemoteFile, StoredFile, check_name, describe
from vatt.params import FetchParams

DEFAULT_FETCH = FetchParams()
TIME_KEYS = ("mtime", "LastModified", "Last-Modified", "updated", "last_modified", "created")
"""What kinds of storage call the time of a file; "created" last, for disks know both."""


class Storage:
    """A local or remote folder: a path, or any address that fsspec knows."""

    def __init__(self, url: str, fetch: FetchParams = DEFAULT_FETCH, key: str = "url") -> None:
        """Open the folder `url`, which the parameter `key` of a source names.

        Raises:
            StageError: the kind of address is not known, or its package is not installed.
        """
        self._url, self._params = url, fetch
        self._place = f"download.sources: {key} = {url!r}"
        options = {}
        self._is_http = url.startswith(("http:", "https:"))
        if self._is_http:
            # The default gives up after five minutes, however well a long video comes in.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            options["client_kwargs"] = {"timeout": timeout}
        try:
            self._files, root = fsspec.core.url_to_fs(url, **options)
        except (ValueError, ImportError) as error:
            raise StageError(f"{self._place}: {error}") from error
        self._root = root.rstrip("/") or "/"
        self._is_local = isinstance(self._files, LocalFileSystem)
        self._outputs: Path | None = None
        """What is never listed, whatever links lead there."""

    def refuse_overlap(self, download_dir: Path) -> None:
        """Raise StageError for a local folder that holds `download_dir`, or lies in it.

        Links inside it that lead there are not listed from then on.
        """
        target = self._outputs = download_dir.resolve()
        root = Path(self._root).resolve()
        if self._is_local and (target.is_relative_to(root) or root.is_relative_to(target)):
            raise StageError(
                f"{self._place}: holds {download_dir} or lies in it; "
                "name a folder of media apart from the outputs"
            )

    def list_files(self) -> list[StoredFile]:
        """List all files below the folder, sorted by name; hidden ones and loops are not entered.

        A link to a folder above, or to the outputs, is listed with the reason why it is not used.

        Raises:
            StageError: the folder itself does not exist or cannot be listed.
        """
        if self._is_local and not Path(self._root).is_dir():
            raise StageError(f"{self._place}: is not an existing folder")
        try:
            listed = list(self._walk())
        except Exception as error:  # every kind of storage raises its own errors
            raise StageError(f"{self._place}: cannot be listed: {describe(error)}") from error
        listed.sort(key=lambda file: (file.name, file.address))
        names = {file.name for file in listed}
        for number, file in enumerate(listed):
            # Object stores allow that a file and a folder have the same name.
            if clashes := names.intersection(map(str, PurePosixPath(file.name).parents)):
                problem = f"a file is called {max(clashes, key=len)} too"
                listed[number] = replace(file, problem=problem)
        return listed

    @contextmanager
    def open(self, file: StoredFile) -> Iterator[BinaryIO]:
        """Open a file to be read as a stream; raise StageError if it cannot be read."""
        try:
            with self._files.open(file.address, "rb") as stream:
                yield stream
        except (OSError, aiohttp.ClientError) as error:
            raise StageError(f"{self._url}: {file.name}: {describe(error)}") from error

    def version(self, file: StoredFile) -> str:
        """Return something that changes when the file does, as far as its storage tells."""
        return str(self._files.ukey(file.address))

    def fetch_all(self, files: Collection[StoredFile], folder: Path) -> dict[str, str | None]:
        """Copy files to a local folder, under their names, with a progress bar.

        A file that is there already with the size and time of the original is left alone. Over
        http, the server is asked whether it changed, and the ledger knows what came in part.

        Returns:
            For each file's name: None, or why it could not be copied.

        Raises:
            StageError: nothing can be written, as when the disk is full.
        """
        problems = {file.name: file.problem for file in files}
        good = [file for file in files if not file.problem]
        if self._is_http:
            remote = [RemoteFile(file.name, file.address) for file in good]
            return problems | fetch.fetch_all(remote, folder, self._params, recheck=True)
        with ThreadPoolExecutor(self._params.connections) as pool:
            results = pool.map(lambda file: self._try_fetch(file, folder / file.name), good)
            try:
                bar = tqdm(results, desc=folder.name, total=len(good), unit="file")
                for file, problem in zip(good, bar, strict=True):
                    problems[file.name] = problem
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return problems

    def _try_fetch(self, file: StoredFile, target: Path) -> str | None:
        """Copy one file, several times if need be; return why it failed."""
        failures, tries = 0, 1 if self._is_local else self._params.tries
        with name_disk_errors(target):
            while True:
                try:
                    self._fetch(file, target)
                except StageError:
                    raise
                except Exception as error:
                    # Without the right to read the original it is this file alone that fails.
                    if is_refusal(error) and not isinstance(error, PermissionError):
                        raise
                    failures += 1
                    if isinstance(error, FileNotFoundError) or failures == tries:
                        return f"cannot be fetched: {describe(error)}"
                    time.sleep(backoff_s(self._params.backoff_s, failures))
                else:
                    return None

    def _fetch(self, file: StoredFile, target: Path) -> None:
        """Copy one file; it appears whole, with the time of the original, or not at all."""
        info = self._files.info(file.address)
        size, modified_s = info.get("size"), _modified_s(info)
        if self._is_local:  # where it is a link, the time is that of the file behind it
            modified_s = Path(file.address).stat().st_mtime
        if modified_s is not None and target.is_file() and not target.is_symlink():
            here = target.stat()
            if here.st_size == size and abs(here.st_mtime - modified_s) < 1e-3:
                return
        target.parent.mkdir(parents=True, exist_ok=True)
        require_space(target.parent, size or 0, self._params.min_free_gb)
        with atomic_path(target) as partial:
            self._files.get_file(file.address, str(partial))
            arrived = partial.stat().st_size
            if size is not None and arrived != size:
                raise OSError(f"{arrived} of {size} bytes arrived")
            if modified_s is not None:
                os.utime(partial, (modified_s, modified_s))

    def _walk(self) -> Iterator[StoredFile]:
        """Yield everything below the folder, in no order."""
        pending = [self._root]
        entered = {os.path.realpath(self._root)} if self._is_local else set()
        while pending:
            folder = pending.pop()
            try:
                infos = self._files.ls(folder, detail=True)
            except Exception as error:
                if folder == self._root:
                    raise
                problem = f"the folder cannot be listed: {describe(error)}"
                yield StoredFile(f"{self._name(folder)}/", folder, problem=problem)
                continue
            for info in sorted(infos, key=lambda info: str(info["name"])):
                address, name = info["name"], self._name(info["name"])
                kind, unusable = self._judge(info)
                unusable = check_name(name) or unusable
                name = f"{name}/" if kind == "directory" else name
                if kind == "directory" and unusable is None:
                    place = os.path.realpath(address) if self._is_local else address.rstrip("/")
                    if place not in entered:
                        entered.add(place)
                        pending.append(address)
                elif not (self._is_http and {"?", "#"} & set(address)):  # links that sort a list
                    yield StoredFile(name, address, problem=unusable)

    def _judge(self, info: dict[str, Any]) -> tuple[str, str | None]:
        """Return the kind of a listed file or folder, and why it cannot be used, if so."""
        kind, path = str(info["type"]), Path(info["name"])
        if info.get("islink"):  # a link is what it points to
            kind = "directory" if path.is_dir() else "file" if path.is_file() else "other"
        if kind == "other":
            return kind, "is not a file, or a link to a file that does not exist"
        may_lead_away = self._is_local and (kind == "directory" or info.get("islink"))
        return kind, self._refuse_place(path.resolve()) if may_lead_away else None

    def _refuse_place(self, place: Path) -> str | None:
        """Return why a place where a link may lead is not used: its copy would be copied again."""
        if place in Path(self._root).resolve().parents:
            return "is a link to a folder that holds the folder of this source"
        outputs = self._outputs
        if outputs and (place.is_relative_to(outputs) or outputs.is_relative_to(place)):
            return f"leads to what this stage writes: {outputs}"
        return None

    def _name(self, address: str) -> str:
        """Return a name below the root; bytes that are not UTF-8 are escaped."""
        name = address.removeprefix(self._root).removeprefix("/").rstrip("/")
        name = unquote(name) if self._is_http else name
        return name.encode("utf-8", "backslashreplace").decode()


def remove_others(folder: Path, kept: AbstractSet[Path]) -> None:
    """Remove every file below a folder but those to be kept, and folders left empty."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept:
            path.unlink()


def _modified_s(info: dict[str, Any]) -> float | None:
    """Return when a file was changed, in seconds since 1970, as far as its storage says."""
    value = next((info[key] for key in TIME_KEYS if info.get(key)), None)
    try:
        if isinstance(value, str):
            is_date = value[:4].isdigit()
            value = datetime.fromisoformat(value) if is_date else parsedate_to_datetime(value)
        return value.timestamp() if isinstance(value, datetime) else value
    except ValueError:
        return None
