"""A stage that is started twice in a folder, by hand or by DVC; and a project in odd places."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.orchestration.miniature import DVC
from tests.stages.conftest import ROOT
from tests.test_whole_pipeline import create_copy
from vatt.core.files import hold_lock

BY_HAND = [sys.executable, "-m", "vatt"]
BY_DVC = [DVC, "repro", "--single-item", "--force"]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project that has downloaded its whole corpus: three videos."""
    root = create_copy(tmp_path / "a project")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["download"]["sources"][0]["num_videos"] = 3
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "data/inbox").mkdir(parents=True, exist_ok=True)
    assert run([*BY_DVC, "download"], root).returncode == 0
    return root


@pytest.mark.parametrize("command", [BY_HAND, BY_DVC], ids=["by hand", "dvc"])
def test_the_second_says_who_holds_the_stage_and_nothing_is_lost(
    copy: Path, command: list[str]
) -> None:
    manifest = (copy / "data/download/manifest.jsonl").read_bytes()
    (copy / "data/preprocess").mkdir()
    (copy / "data/preprocess/half").write_text("what the first has made")
    for stage in ("download", "preprocess"):
        with hold_lock(copy / ".cache/locks" / stage) as lock:
            lock.truncate(0)
            lock.write("process 7 of node3, started 2026-11-28 12:00:00+00:00,")
            lock.flush()
            second = run([*command, stage], copy)
            assert second.returncode != 0
            message = f"{stage}: process 7 of node3, started 2026-11-28 12:00:00+00:00, runs this"
            assert message in second.stderr
    assert (copy / "data/download/manifest.jsonl").read_bytes() == manifest
    assert (copy / "data/preprocess/half").exists()
    assert run([*command, "download"], copy).returncode == 0  # what the lock says is old
    assert (copy / "data/download/manifest.jsonl").read_bytes() == manifest


def test_outputs_outside_of_the_repository_are_refused_before_the_work(copy: Path) -> None:
    shutil.move(copy / "data", copy.parent / "other disk")
    (copy / "data").symlink_to(copy.parent / "other disk")
    failed = run([*BY_DVC, "preprocess"], copy)
    assert failed.returncode != 0
    assert "preprocess: data is a link to" in failed.stderr
    assert not (copy / "data/preprocess").exists()
    assert run([*BY_HAND, "preprocess"], copy).returncode == 0


def test_without_git_and_in_a_moved_folder_make_says_what_it_does(tmp_path: Path) -> None:
    def plan(target: str) -> str:
        made = run(["make", "--dry-run", f"PYTHON={sys.executable}", target], root)
        assert made.returncode == 0, made.stderr
        return made.stdout

    root = tmp_path / "a project"
    root.mkdir()
    for name in ("Makefile", "requirements.lock", "requirements-dvc.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    assert "[ -e .git ] || dvc config --quiet --local core.no_scm true" in plan("demo")
    (root / ".venv").mkdir()
    (root / ".venv/.installed").write_text(f"{root}\n")
    assert "install" not in plan("demo")
    assert "rm -rf .cache" in plan("clean")
    root = root.rename(tmp_path / "moved")
    assert "venv --clear .venv" in plan("demo")
