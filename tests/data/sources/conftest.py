"""Fetching keeps its ledger below the current folder: one folder for each test."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def current_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    folder = tmp_path_factory.mktemp("current")
    monkeypatch.chdir(folder)
    return folder
