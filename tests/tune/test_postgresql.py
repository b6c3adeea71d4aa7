"""Studies on a real PostgreSQL server: several machines at once, and a server that goes away."""

import os
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.tune.conftest import (
    NUM_STEPS,
    PATIENCE_S,
    check_rows,
    make_plan,
    make_slowly,
    make_study,
    read_files,
    read_log,
)
from vatt.core.errors import StageError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("initdb") is None, reason="needs PostgreSQL's initdb on PATH"),
]
FORK = get_context("fork")


class Server:
    """A PostgreSQL server, which refuses to run as root."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        folder.mkdir()
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        self._run("initdb", "--auth=trust", "--username=tuner", "--no-sync")

    @property
    def address(self) -> str:
        return f"postgresql+psycopg://tuner:secret@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"--options=-p {self._port} -h 127.0.0.1 -k {self._folder} -F"
        self._run("pg_ctl", "start", "--wait", "--timeout=240", "--silent", options, "--log=log")

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--mode=immediate", "--silent", "--timeout=240")

    def _run(self, *command: str) -> None:
        options: dict[str, Any] = {"cwd": self._folder, "stdout": subprocess.DEVNULL}
        options["env"] = {**os.environ, "PGDATA": str(self._folder)}
        user = "postgres" if os.getuid() == 0 else None
        subprocess.run(command, check=True, user=user, **options)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = Path(tmp_path_factory.mktemp("server"))
    for parent in [folder, *folder.parents][:3]:
        parent.chmod(0o755)  # the server is another user
    server = Server(folder / "data")
    server.start()
    yield server
    server.stop()


def test_two_machines_make_one_study(
    server: Server, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    plan = make_plan(storage=server.address, num_workers=2)
    machines = [FORK.Process(target=make_slowly, args=(plan, folder)) for folder in folders]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join(PATIENCE_S)
    assert [machine.exitcode for machine in machines] == [0, 0]
    assert [read_files(folder) for folder in folders] == [expected, expected]
    steps = [Counter(read_log(folder)) for folder in folders]
    assert set((steps[0] + steps[1]).values()) == {1}
    check_rows(plan, folders[0] / "cache")


def test_a_server_that_goes_away_is_told_and_finished_trials_stay(
    server: Server, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    stopped = tmp_path / "stopped"

    def stop(name: str, step: int) -> None:
        if (name, step) == ("trial-0004", 2) and not stopped.exists():
            stopped.touch()
            server.stop()

    plan = make_plan(storage=server.address)
    with pytest.raises(StageError, match=r"tune\.storage = postgresql.*: cannot be used") as caught:
        make_study(plan, tmp_path, stop)
    assert "secret" not in str(caught.value)
    server.start()
    make_study(plan, tmp_path)
    assert read_files(tmp_path) == expected
    finished = Counter(name for name, step in read_log(tmp_path) if step == NUM_STEPS)
    assert set(finished.values()) == {1}
    with psycopg.connect(server.address.replace("+psycopg", "")) as connection:
        states = connection.execute("select state, count(*) from trials group by state").fetchall()
    assert dict(states).keys() <= {"COMPLETE", "PRUNED", "FAIL"}


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    plan = make_plan(storage="postgresql+psycopg://tuner:secret@127.0.0.1:9/none")
    with pytest.raises(StageError, match=r"tune\.storage = postgresql.*refused") as caught:
        make_study(plan, tmp_path)
    assert "secret" not in str(caught.value)
