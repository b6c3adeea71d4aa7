"""The stages as a user who may write in the project alone: not to the inputs, code and home."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.made_media import Clip, write_clip
from tests.stages.conftest import ROOT
from vatt.corpus.manifest import read_manifest

NOBODY = 65534
CUE = "WEBVTT\n\n00:00.000 --> 00:02.000\nhello {0}\n\n00:02.500 --> 00:05.000\nit goes on\n"
READ_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""Where Python itself lies in the home folder of root, nobody needs the right to read it."""
AsUser = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others than its owner can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)
        for path in Path(name).rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


@pytest.fixture
def as_user(folder: Path) -> AsUser:
    """Runs a command in the project as nobody, or where root does not run the tests as oneself."""
    become: tuple[str, ...] = ()
    code, project = folder / "code", folder / "project"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(code), "HOME": "/nonexistent"}
    shutil.copytree(ROOT / "vatt", code / "vatt", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "data/inbox").mkdir(parents=True)
    if os.geteuid() == 0:
        become = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        for path in (project, *project.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        # `setpriv` itself may still read all that root may; a process that it starts may not.
        test = [*become, "env", sys.executable, "-c", "import vatt.params"]
        if subprocess.run(test, env=environment, capture_output=True, check=False).returncode:
            become += READ_ALL

    def run(*command: str, home: str | None = None) -> "subprocess.CompletedProcess[str]":
        own = {name: value for name, value in environment.items() if name != "HOME" or home}
        done = subprocess.run(
            [*become, *command], cwd=project, env=own, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    return run


def write_inputs(inputs: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        write_clip(inputs / f"{name}.mp4", Clip(duration_s=5 + number, flash_s=(1.0 + number,)))
        (inputs / f"{name}.vtt").write_text(CUE.format(name))


def protect(folder: Path, *, writable: bool = False) -> None:
    """Take the right to write to all of a folder from everybody, its owner included, or give it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o755 if path.is_dir() else 0o644) if writable else 0o555 | path.is_dir())


@pytest.mark.parametrize(
    "training",
    [
        ("-c", "from vatt.loading.colour import load_compiled; load_compiled()"),
        pytest.param(("-m", "vatt", "pretrain"), marks=pytest.mark.slow),
    ],
)
def test_a_user_without_rights_to_inputs_code_and_home(
    folder: Path, as_user: AsUser, training: tuple[str, ...]
) -> None:
    """Training compiles with Numba, which keeps what comes of it; ONNX Runtime would keep an id."""
    inputs, project = folder / "in", folder / "project"
    write_inputs(inputs, ["a", "b", "sub/c", "sub/d"])
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    source = {"kind": "folder", "name": "mine", "url": str(inputs), "validation_rate": 0.0}
    params["download"]["sources"] = [{**source, "test_rate": 0.0}]
    params["pretrain"] |= {"num_steps": 2, "warmup_steps": 1, "batch_size": 2}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    for read_only in (inputs, folder / "code"):
        protect(read_only)
    for stage, home in (("download", None), ("preprocess", "/nonexistent"), ("validate", None)):
        done = as_user(sys.executable, "-m", "vatt", stage, home=home)
        assert "elemetry" not in done.stderr
    as_user(sys.executable, *training)
    assert list((project / ".cache/numba").rglob("*change_colours*"))
    rows = read_manifest(project / "data/download")
    assert [row.video_id for row in rows] == ["a.mp4", "b.mp4", "sub/c.mp4", "sub/d.mp4"]
    assert all(row.captions_path for row in rows)
    protect(inputs, writable=True)
    shutil.rmtree(inputs / "sub")
    write_inputs(inputs, ["b"])
    protect(inputs)
    as_user(sys.executable, "-m", "vatt", "download")
    assert [row.video_id for row in read_manifest(project / "data/download")] == ["a.mp4", "b.mp4"]
    copied, original = (place / "b.mp4" for place in (project / "data/download/mine", inputs))
    assert copied.read_bytes() == original.read_bytes()
    as_user("rm", "-r", *(str(project / name) for name in ("data", "metrics", ".cache")))
