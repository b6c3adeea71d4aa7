"""Scratch pipelines, and a real `dg dev` for the tests that need a server."""

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.orchestration.miniature import DG, REPO, create_miniature, wait_until

START_TIMEOUT_S = 200  # 15 on an idle machine


@pytest.fixture
def miniature(tmp_path: Path) -> Path:
    return create_miniature(tmp_path / "miniature")


@dataclass(frozen=True)
class Server:
    """A running `dg dev` on the pipeline in `root`."""

    root: Path
    url: str

    def query(self, query: str, **variables: object) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = create_miniature(tmp_path_factory.mktemp("server") / "miniature")
    home = root / ".dagster"
    home.mkdir()
    shutil.copy(REPO / "orchestration/dagster.yaml", home)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log_path = home / "server.log"
    log = log_path.open("w")
    process = subprocess.Popen(
        [*DG, "dev", "--host", "127.0.0.1", "--port", str(port)],
        cwd=root,
        env=os.environ | {"DAGSTER_HOME": str(home)},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        server = Server(root, f"http://127.0.0.1:{port}")

        def is_loaded() -> bool:
            with suppress(OSError):
                return bool(server.query("{ assetNodes { opName } }")["assetNodes"])
            return False

        wait_until(is_loaded, START_TIMEOUT_S, log_path.read_text)
        yield server
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(timeout=60)
        for child in psutil.wait_procs(children, timeout=20)[1]:
            child.kill()
        log.close()
