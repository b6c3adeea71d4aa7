"""Definitions load in seconds and without the libraries of training."""

import subprocess
import sys
import time

import dagster as dg

from orchestration.definitions import build_definitions
from orchestration.pipeline import load_pipeline
from tests.orchestration.miniature import REPO

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
