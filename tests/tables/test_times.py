"""The lines that `make demo` ends with, and that DVC is counted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vatt.core.times import TIMES_PATH, Spent
from vatt.tables.times import format_times

ROOT = Path(__file__).parents[2]
DVC = """#!/bin/bash
echo "Updating lock file 'dvc.lock'"
echo "a stage"
echo "a problem" >&2
echo '{line}' >> {times}
bash -c 'ulimit -t 2; while :; do :; done'
exit {code}
"""
PYTHON = """#!/bin/bash
[ "$2" = vatt.evaluate.results ] && exit 0
PYTHONPATH={root} exec {python} "$@"
"""


def test_each_stage_has_a_line_and_dvc_is_the_rest() -> None:
    rows = [
        Spent("pretrain", 30.0, 50.0, 4.0),  # failed, say, and was run again
        Spent("pretrain", 60.0, 100.0, 2.0),
        Spent("tune audio", 12.0, 18.0, 6.0),
        Spent("make demo", 120.0, 180.0, 24.0),
    ]
    lines = format_times(rows).splitlines()
    table = {" ".join(line.split()[:-2]): line.split()[-2:] for line in lines}
    assert table["pretrain"] == ["2.60", "1.50"]
    assert table["tune audio"] == ["0.40", "0.20"]
    assert table["DVC and the rest"] == ["0.40", "0.30"]
    assert lines[-1].split() == ["all", "3.40", "2.00"]
    assert sum(line.endswith("unchanged, not run") for line in lines) == 12
    assert len(lines) == 1 + 14 + 2


def test_nothing_was_run() -> None:
    lines = format_times([]).splitlines()
    assert sum(line.endswith("unchanged, not run") for line in lines) == 14
    assert lines[-1].split() == ["all", "0.00", "0.00"]


@pytest.mark.parametrize("code", [0, 4])
def test_make_demo_begins_anew_counts_dvc_and_fails_with_it(tmp_path: Path, code: int) -> None:
    """With programs of an environment that answer at once."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    line = json.dumps(Spent("validate", 60.0, 6.0, 6.0)._asdict())
    fakes = {
        "dvc": DVC.format(line=line, times=TIMES_PATH, code=code),
        "python": PYTHON.format(root=ROOT, python=sys.executable),
    }
    for name, text in fakes.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name in ("requirements.lock", "requirements-dvc.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / ".venv/.installed").write_text(f"{tmp_path}\n")
    (tmp_path / TIMES_PATH).parent.mkdir()
    (tmp_path / TIMES_PATH).write_text("of an older run")
    ended = subprocess.run(
        ["make", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode == 0) == (code == 0), ended.stderr
    assert "a stage" in ended.stdout
    assert "lock file" not in ended.stdout
    assert "a problem" in ended.stderr
    _, whole = map(json.loads, (tmp_path / TIMES_PATH).read_text().splitlines())
    assert whole["stage"] == "make demo"
    assert 1 <= whole["user_s"] + whole["system_s"] <= whole["wall_s"] + 1
    if code == 0:
        assert "validate                                    0.20    1.00" in ended.stdout
