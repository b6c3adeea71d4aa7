"""Definitions load in seconds and without the libraries of training."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from orchestration.definitions import build_definitions
from orchestration.pipeline import load_pipeline
from tests.orchestration.miniature import DG, REPO, read_lock

DAGSTER = [sys.executable, "-m", "dagster"]
SELECTION = "key:download+1"
LOAD = """
import sys
from orchestration.definitions import defs
defs()
heavy = {"torch", "pandas", "deepspeed", "great_expectations", "av", "dvc"} & set(sys.modules)
sys.exit(", ".join(heavy) or None)
"""


def test_loads_in_seconds_without_heavy_imports() -> None:
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", LOAD], cwd=REPO, check=True)
    assert time.monotonic() - start < 10  # 1.5 s on an idle machine


def test_definitions_are_valid() -> None:
    dg.Definitions.validate_loadable(build_definitions(load_pipeline(REPO)))


def enter_home(folder: Path) -> dict[str, str]:
    """Return an environment in which Dagster keeps its records in a folder."""
    shutil.copy(REPO / "orchestration/dagster.yaml", folder)
    return os.environ | {"DAGSTER_HOME": str(folder)}


@pytest.mark.parametrize(
    "command",
    [
        [
            *DAGSTER,
            "asset",
            "materialize",
            "-m",
            "orchestration.definitions",
            "--select",
            SELECTION,
        ],
        [*DG, "launch", "--assets", SELECTION],
    ],
)
def test_a_selection_in_words_is_run(command: list[str], miniature: Path, tmp_path: Path) -> None:
    """Dagster reads it with antlr 4.13, which excludes DVC from this environment."""
    subprocess.run(command, cwd=miniature, env=enter_home(tmp_path), check=True)
    assert set(read_lock(miniature)) == {"download", "preprocess"}


def test_all_definitions_are_listed(miniature: Path, tmp_path: Path) -> None:
    command = [*DG, "list", "defs", "--json"]
    listed = json.loads(subprocess.check_output(command, cwd=miniature, env=enter_home(tmp_path)))
    assets = {asset["asset_key"] for asset in listed["assets"]}
    assert assets - {"inbox"} == {s.asset for s in load_pipeline(miniature).stages.values()}
