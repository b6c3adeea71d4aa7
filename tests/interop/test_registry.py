import subprocess
import sys
import time
from pathlib import Path

import pytest

import vatt
from vatt.interop.registry import (
    RECORD,
    Record,
    decide,
    digest_export,
    find_champion,
    read_champion,
    replace_champion,
    settle_champion,
)
from vatt.params import PromoteParams, StageError

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
        (None, 0.5, False),
        (0.5, None, False),
        (None, None, False),
    ],
)
def test_a_challenger_wins_unless_it_is_worse_by_more_than_the_tolerance(
    challenger: float | None, champion: float | None, promoted: bool
) -> None:
    decision = decide(PROMOTE, challenger, champion)
    assert decision.promoted is promoted
    assert "text_to_video_r10" in decision.reason
    assert (decision.challenger, decision.champion) == (challenger, champion)


def test_champion_and_record_are_what_was_put_there(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    assert read_champion(registry) is None
    with pytest.raises(StageError, match="no champion yet"):
        find_champion(registry)
    for name in ("first", "second"):
        export = make_export(tmp_path / name, name)
        record = make_record(export)
        replace_champion(export, record, registry)
        champion = read_champion(registry)
        assert champion is not None
        assert champion.record == record
        assert digest_export(champion.path) == record.export_digest
        assert [path.name for path in registry.iterdir()] == ["champion"]


def test_the_digest_sees_every_byte_and_name_and_not_the_record(tmp_path: Path) -> None:
    export = make_export(tmp_path / "export", "a")
    first = digest_export(export)
    (export / RECORD).write_text("{}")
    assert digest_export(export) == first
    (export / "nested" / "params.yaml").write_text("b")
    second = digest_export(export)
    (export / "nested" / "params.yaml").rename(export / "params.yaml")
    assert len({first, second, digest_export(export)}) == 3


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    export = make_export(tmp_path / "export", "a")
    replace_champion(export, make_record(export), tmp_path)
    (tmp_path / "champion" / RECORD).write_text('{"metrics": ')
    with pytest.raises(StageError, match=r"champion/record\.json"):
        read_champion(tmp_path)


def test_without_a_champion_loading_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="data/promote/champion: there is no champion yet"):
        vatt.load("champion")


PROMOTE_FOR_EVER = """
import sys
from pathlib import Path
from vatt.interop.registry import Record, replace_champion

champions = [
    (Path(export), Record.model_validate_json(record))
    for export, record in zip(sys.argv[2::2], sys.argv[3::2], strict=True)
]
print("ready", flush=True)
while True:
    for export, record in champions:
        replace_champion(export, record, Path(sys.argv[1]))
"""


def test_killed_at_any_moment_one_whole_champion_stands(tmp_path: Path) -> None:
    exports = [make_export(tmp_path / name, name * 500) for name in "ab"]
    registry = tmp_path / "registry"
    replace_champion(exports[0], make_record(exports[0]), registry)
    arguments = [
        text for export in exports for text in (str(export), make_record(export).model_dump_json())
    ]
    between = set()
    for attempt in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", PROMOTE_FOR_EVER, registry, *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.001 + 0.0013 * attempt)
        process.kill()
        process.communicate()
        between.add(tuple(sorted(path.name for path in registry.iterdir())))
        champion = read_champion(registry)
        assert champion is not None
        assert digest_export(champion.path) == champion.record.export_digest
    assert len(between) > 1  # some kills came in the middle
    settle_champion(registry)
    assert (registry / "champion").is_dir()
    assert not (registry / "champion.next").exists()
