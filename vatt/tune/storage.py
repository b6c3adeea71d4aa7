"""Where studies are kept: SQLite in .cache/tune, or a server that several machines share.

Locks of files keep the processes of one machine apart; they end with the process that holds them.
"""

import contextlib
import fcntl
import sqlite3
import time
import warnings
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from vatt.core.errors import StageError
from vatt.params import TuneParams

SQLITE_NAME = "studies.db"
WAIT_S = 300
"""How long to wait at most for another process to be done with an SQLite file."""
MISSED_HEARTBEATS = 3
NUM_CREATORS = 2
"""Attempts to create tables before an error counts."""


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Wait for a lock, and hold it meanwhile."""
    with _open_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> TextIOWrapper | None:
    """Return the open file that holds a lock until it is closed; None if another process does."""
    file = _open_lock(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def create_storage(tune: TuneParams, folder: Path) -> None:
    """Create the tables of a storage where they are missing.

    Args:
        tune: says where.
        folder: of SQLite and its lock.

    Raises:
        StageError: the storage cannot be used.
    """
    with told_plainly(tune, folder), hold(folder / "storage.lock"):
        if tune.storage is None:
            with contextlib.closing(
                sqlite3.connect(folder / SQLITE_NAME, timeout=WAIT_S)
            ) as connection:
                # Stays with the file: those who read need not wait for those who write.
                connection.execute("PRAGMA journal_mode=WAL")
        for _ in range(NUM_CREATORS):
            with contextlib.suppress(StorageInternalError, DBAPIError):
                _open(tune, folder, creates=True).engine.dispose()
                return
            time.sleep(1)  # another machine may be creating them, too
        _open(tune, folder, creates=True).engine.dispose()


def open_storage(tune: TuneParams, folder: Path) -> RDBStorage:
    """Open a storage that exists. Each process opens its own."""
    return _open(tune, folder, creates=False)


def name_storage(tune: TuneParams, folder: Path) -> str:
    """Return the address of a storage, without a password."""
    return make_url(_find_address(tune, folder)).render_as_string(hide_password=True)


@contextlib.contextmanager
def told_plainly(tune: TuneParams, folder: Path) -> Iterator[None]:
    """Tell in a line what the storage cannot do.

    Raises:
        StageError: in place of what SQLAlchemy and Optuna raise.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error, ImportError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        cause = getattr(cause, "orig", None) or cause
        reason = str(cause).strip().partition("\n")[0]
        address = f"null ({folder / SQLITE_NAME})"
        if tune.storage is not None:
            try:
                address = make_url(tune.storage).render_as_string(hide_password=True)
            except ArgumentError:
                address = "(no address)"
        raise StageError(
            f"tune.storage = {address}: cannot be used: {reason}. {_advise(cause)}"
        ) from error


def _advise(cause: BaseException | None) -> str:
    """Say what a person can do about a storage that cannot be used."""
    if isinstance(cause, ImportError):
        return "A server needs the extra `postgresql` (pip install '.[postgresql]')"
    if type(cause) is sqlite3.DatabaseError:  # not one of its subclasses, which may pass
        return "Restore the file, or remove it: then its finished trials are trained again"
    return "What it holds of finished trials stays: run the stage again when it is back"


def _open(tune: TuneParams, folder: Path, *, creates: bool) -> RDBStorage:
    engine_options = {}
    if tune.storage is None:
        # A file that is gone is noticed only where it is opened anew.
        engine_options = {"connect_args": {"timeout": WAIT_S}, "poolclass": NullPool}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats
        return RDBStorage(
            _find_address(tune, folder),
            engine_options,
            skip_compatibility_check=not creates,
            skip_table_creation=not creates,
            heartbeat_interval=tune.heartbeat_s,
            grace_period=MISSED_HEARTBEATS * tune.heartbeat_s,
        )


def _find_address(tune: TuneParams, folder: Path) -> str:
    if tune.storage is not None:
        return tune.storage
    # Opened for writing, never created: that is done once, above.
    return f"sqlite:///file:{(folder / SQLITE_NAME).absolute()}?mode=rw&uri=true"


def _open_lock(path: Path) -> TextIOWrapper:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w")
