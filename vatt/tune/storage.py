"""Where studies are kept: SQLite in .cache/tune, or a server that several machines share.

Locks of files keep the processes of one machine apart; they end with the process that holds them.
"""

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from vatt.core.errors import StageError
from vatt.params import TuneParams

SQLITE_NAME = "studies.db"
WAIT_S = 300
"""How long to wait at most for another process to be done with an SQLite file."""


def hold(path: Path, *, waits: bool = True) -> TextIOWrapper:
    """Return the open file that holds a lock until it is closed, as `with` does at its end.

    Raises:
        BlockingIOError: another process holds it, and this one does not wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file


def create_storage(tune: TuneParams, folder: Path) -> None:
    """Create the tables of the storage, on a server or as SQLite in `folder`, if they are missing.

    Raises:
        StageError: the storage cannot be used.
    """
    with explaining_storage_errors(tune, folder), hold(folder / "storage.lock"):
        if tune.storage is None:
            file = sqlite3.connect(folder / SQLITE_NAME, timeout=WAIT_S)
            with contextlib.closing(file):
                # Stays with the file: those who read need not wait for those who write.
                file.execute("PRAGMA journal_mode=WAL")
        for attempts_left in (2, 1, 0):
            try:
                open_storage(tune, folder, creates=True).engine.dispose()
                break
            except (StorageInternalError, DBAPIError):
                if attempts_left == 0:
                    raise
                time.sleep(1)  # another machine may be creating them, too


def open_storage(tune: TuneParams, folder: Path, *, creates: bool = False) -> RDBStorage:
    """Open a storage, which exists unless it `creates` the tables. Each process opens its own."""
    address, engine_options = tune.storage, {}
    if address is None:
        # The file is opened for writing, never created: that is done once, above. Connections are
        # not kept, since a file that is gone is noticed only where it is opened anew.
        address = f"sqlite:///file:{(folder / SQLITE_NAME).absolute()}?mode=rw&uri=true"
        engine_options = {"connect_args": {"timeout": WAIT_S}, "poolclass": NullPool}
    return RDBStorage(
        address,
        engine_options,
        skip_compatibility_check=not creates,
        skip_table_creation=not creates,
        heartbeat_interval=tune.heartbeat_s,
        grace_period=3 * tune.heartbeat_s,
    )


@contextlib.contextmanager
def explaining_storage_errors(tune: TuneParams, folder: Path) -> Iterator[None]:
    """Say in a line what the storage refuses, and what a person can do about it.

    Raises:
        StageError: in place of what SQLAlchemy and Optuna raise; without the password.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error, ImportError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        cause = getattr(cause, "orig", None) or cause
        reason = str(cause).strip().partition("\n")[0]
        if isinstance(cause, ImportError):
            advice = "A server needs the extra `postgresql` (pip install '.[postgresql]')"
        elif type(cause) is sqlite3.DatabaseError:  # not one of its subclasses, which may pass
            advice = "Restore the file, or remove it: then its finished trials are trained again"
        else:
            advice = "What it holds of finished trials stays: run the stage again when it is back"
        raise StageError(
            f"tune.storage = {_name(tune, folder)}: cannot be used: {reason}. {advice}"
        ) from error


def _name(tune: TuneParams, folder: Path) -> str:
    """Return the address of a storage, without a password."""
    if tune.storage is None:
        return f"null ({folder / SQLITE_NAME})"
    try:
        return make_url(tune.storage).render_as_string(hide_password=True)
    except ArgumentError:
        return "(no address)"
