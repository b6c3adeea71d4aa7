"""Moves to the place of a file that a kill prevented are made up for, with the right bytes."""

from pathlib import Path

import pytest

from tests.download.made_files import QUICK
from tests.download.misbehaving_server import serve
from vatt.download.fetch import STATE_DIR, fetch_all
from vatt.download.ledger import Arrivals
from vatt.download.remote_files import RemoteFile

OUT = Path("out")


def test_a_changed_file_of_as_many_bytes_survives_a_kill_before_the_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serve() as (address, record):
        record.files["/well/a"] = b"old bytes"
        files = [RemoteFile("a", f"{address}/well/a")]
        assert fetch_all(files, OUT, QUICK) == {"a": None}
        record.files["/well/a"] = b"new bytes"

        def die(*_: object) -> None:
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(Arrivals, "move", die)
            with pytest.raises(RuntimeError, match="killed"):
                fetch_all(files, OUT, QUICK, recheck=True)
        assert (OUT / "a").read_bytes() == b"old bytes"
        record.requests.clear()
        assert fetch_all(files, OUT, QUICK) == {"a": None}
        assert record.requests == []  # what came is not asked for again
    assert (OUT / "a").read_bytes() == b"new bytes"


def test_a_file_that_is_taken_over_is_not_replaced_by_leftovers() -> None:
    OUT.mkdir()
    (OUT / "a").write_bytes(b"from a backup")
    partial_dir = STATE_DIR / "partial" / "out"
    partial_dir.mkdir(parents=True)
    for number in range(5):  # rows of the ledger take numbers of rows that went
        (partial_dir / f"{number}.partial").write_bytes(b"other content")
    with serve() as (address, _):
        files = [RemoteFile("a", f"{address}/well/a")]
        for _ in range(2):
            assert fetch_all(files, OUT, QUICK) == {"a": None}
    assert (OUT / "a").read_bytes() == b"from a backup"
