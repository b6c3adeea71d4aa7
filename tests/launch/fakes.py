"""Fake programs of a cluster: each writes down what it is asked."""

import os
from pathlib import Path

import pytest


def install_fakes(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Put shell scripts on PATH by name; in each, $N counts its calls from 1."""
    programs = folder / "bin"
    programs.mkdir()
    for name, script in scripts.items():
        note = f'echo "{name} $1" >> {folder}/asked\nN=$(grep -c "^{name} $1" {folder}/asked)'
        (programs / name).write_text(f"#!/bin/sh\n{note}\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.defpath}")
    monkeypatch.setattr("vatt.launch.cluster.ASK_AGAIN_S", 0.0)


def read_asked(folder: Path) -> list[str]:
    """Return the calls in order: program and first argument."""
    path = folder / "asked"
    return path.read_text().splitlines() if path.exists() else []
