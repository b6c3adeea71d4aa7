"""Definitions load in seconds and without the libraries of training."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def test_all_definitions_are_valid_and_listed(tmp_path: Path) -> None:
    command = [*DG, "list", "defs", "--json"]
    listed = json.loads(subprocess.check_output(command, cwd=REPO, env=enter_home(tmp_path)))
    keys = {
        kind: {entry.get("asset_key") or entry.get("key") or entry["name"] for entry in entries}
        for kind, entries in listed.items()
    }
    stages = {stage.asset for stage in load_pipeline(REPO).stages.values()}
    assert keys["assets"] - {"inbox"} == stages
    assert keys["jobs"] == {"everything", "evaluation_only"}
    assert keys["schedules"] == {"weekly"}
    assert keys["sensors"] == {"new_files_in_inbox"}
