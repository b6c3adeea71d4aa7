"""The champion: which export becomes it, and that one whole champion always stands."""

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import vatt
from vatt.core import files as core_files
from vatt.core.errors import StageError
from vatt.params import PromoteParams
from vatt.weights import registry
from vatt.weights.registry import (
    RECORD,
    Champion,
    Record,
    decide,
    digest_export,
    find_export,
    read_champion,
    replace_champion,
    settle_champion,
)

PROMOTE = PromoteParams(metric="text_to_video_r10", tolerance=0.02)


def make_export(folder: Path, content: str) -> Path:
    (folder / "nested").mkdir(parents=True)
    (folder / "model.safetensors").write_text(content * 1000)
    (folder / "nested" / "params.yaml").write_text(content)
    return folder


def make_record(export_dir: Path) -> Record:
    return Record(
        export_digest=digest_export(export_dir),
        data_version="d",
        test_data="t",
        code_version="unknown",
        parameters={"clip": {"num_frames": 8}},
        metrics={"text_to_video_r10": 0.5, "audio_to_video_r10": None},
        decision=decide(PROMOTE, 0.5, 0.5),
    )


@pytest.mark.parametrize(
    ("challenger", "champion", "promoted"),
    [
        (0.50, 0.50, True),
        (0.60, 0.50, True),
        (0.49, 0.50, True),  # within the tolerance
        (0.48, 0.50, True),  # exactly at it
        (0.47, 0.50, False),
        (0.0, 1.0, False),
        (0.0, 0.0, True),
    ],
)
def test_a_challenger_wins_unless_it_is_worse_by_more_than_the_tolerance(
    challenger: float, champion: float, promoted: bool
) -> None:
    decision = decide(PROMOTE, challenger, champion)
    assert decision.promoted is promoted
    assert "text_to_video_r10" in decision.reason
    assert (decision.challenger, decision.champion) == (challenger, champion)


def test_champion_and_record_are_what_was_put_there(tmp_path: Path) -> None:
    registry_dir = tmp_path / "registry"
    assert read_champion(registry_dir) is None
    with pytest.raises(StageError, match="no champion yet"):
        find_export("champion", registry_dir)
    for name in ("first", "second"):
        export = make_export(tmp_path / name, name)
        record = make_record(export)
        replace_champion(export, record, "card", registry_dir)
        champion = read_champion(registry_dir)
        assert champion is not None
        assert champion.record == record
        assert digest_export(champion.path) == record.export_digest
        assert [path.name for path in registry_dir.iterdir()] == ["champion"]


def test_the_champion_of_a_read_only_export_can_be_replaced(tmp_path: Path) -> None:
    export = make_export(tmp_path / "export", "a")
    for path in (export / "model.safetensors", export / "nested/params.yaml"):
        path.chmod(0o444)
    for folder in (export / "nested", export):
        folder.chmod(0o555)
    replace_champion(export, make_record(export), "card", tmp_path / "registry")
    made = [tmp_path / "registry/champion", *(tmp_path / "registry/champion").rglob("*")]
    assert len(made) == 6
    assert all(path.stat().st_mode & 0o200 for path in made)
    for folder in (export, export / "nested"):
        folder.chmod(0o755)


def test_the_digest_sees_every_byte_and_name_and_not_the_record(tmp_path: Path) -> None:
    export = make_export(tmp_path / "export", "a")
    first = digest_export(export)
    (export / RECORD).write_text("{}")
    assert digest_export(export) == first
    (export / "nested" / "params.yaml").write_text("b")
    second = digest_export(export)
    (export / "nested" / "params.yaml").rename(export / "params.yaml")
    assert len({first, second, digest_export(export)}) == 3


def test_absent_and_damaged_ones_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="data/promote/champion: there is no champion yet"):
        vatt.load("champion")
    export = make_export(tmp_path / "export", "a")
    replace_champion(export, make_record(export), "card", tmp_path)
    (tmp_path / "champion" / RECORD).write_text('{"metrics": ')
    with pytest.raises(StageError, match=r"champion/record\.json"):
        read_champion(tmp_path)


def die_at_line(number: int, call: Callable[[], None]) -> bool:
    """Run `call` in a child that kills itself before this line of ours or shutil's; did it die?"""
    files = {registry.__file__, core_files.__file__, shutil.__file__}
    lines = itertools.count(1)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and next(lines) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    child = os.fork()
    if child == 0:
        sys.settrace(trace)
        call()
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_line_one_whole_champion_stands(tmp_path: Path, step: int) -> None:
    old, new = (make_export(tmp_path / name, name) for name in ("old", "new"))
    old_record, new_record = make_record(old), make_record(new)
    registry_dir = tmp_path / "registry"
    standing = []
    for number in itertools.count(1, step):
        replace_champion(old, old_record, "card", registry_dir)
        died = die_at_line(number, lambda: replace_champion(new, new_record, "card", registry_dir))
        champion = read_champion(registry_dir)
        assert champion is not None
        assert champion.record in (old_record, new_record)
        assert digest_export(champion.path) == champion.record.export_digest
        standing.append(champion.record == new_record)
        settle_champion(registry_dir)
        settled = read_champion(registry_dir)
        assert settled is not None
        assert settled == Champion(registry_dir / "champion", champion.record)
        if not died:
            break
    assert standing == sorted(standing)  # the old one up to one line, the new one from there on
    assert standing.count(False) > 100 / step
    assert standing.count(True) > 10 / step
