"""A folder for each test, because fetching keeps its ledger there, and servers of media."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.download.made_files import QuietHandler, serve_with
from tests.download.misbehaving_server import Record, serve


@pytest.fixture(autouse=True)
def current_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    folder = tmp_path_factory.mktemp("current")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of `media/`."""
    (tmp_path / "media").mkdir()
    with serve_with(partial(QuietHandler, directory=str(tmp_path / "media"))) as address:
        yield address


@pytest.fixture
def misbehaving() -> Iterator[tuple[str, Record]]:
    """The address of a server that misbehaves as a path says, and the record of it."""
    with serve() as server:
        yield server
