"""Definitions load in seconds without the libraries of training; nothing runs unless turned on.

The sensor asks once for each complete state of the inbox.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._utils.schedules import cron_string_iterator

from orchestration.definitions import build_definitions
from orchestration.pipeline import load_pipeline
from tests.orchestration.miniature import DG, REPO, read_lock

DAGSTER = [sys.executable, "-m", "dagster"]
SELECTION = "key:download+1"
SELECT = ["--select", SELECTION]
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
            *["asset", "materialize", "-m", "orchestration.definitions", "--select"],
            SELECTION,
        ],
        [*DG, "launch", "--assets", SELECTION],
    ],
)
def test_a_selection_in_words_is_run(command: list[str], miniature: Path, tmp_path: Path) -> None:
    """Dagster reads it with antlr 4.13, which excludes DVC from this environment."""
    subprocess.run(command, cwd=miniature, env=enter_home(tmp_path), check=True)
    assert set(read_lock(miniature)) == {"download", "preprocess"}


def test_all_definitions_are_valid_and_jobs_hold_what_their_names_say(tmp_path: Path) -> None:
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
    definitions = build_definitions(load_pipeline(REPO))
    everything = definitions.resolve_job_def("everything")
    assert {node.name for node in everything.nodes} >= stages
    evaluation = definitions.resolve_job_def("evaluation_only")
    keys_of_job = evaluation.asset_layer.executable_asset_keys
    assert {key.to_user_string() for key in keys_of_job} == {"evaluate"}


class Inbox:
    """The sensor on a folder: `tick` evaluates it as the daemon does, keeping the cursor."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "data/inbox"
        definitions = build_definitions(load_pipeline(root))
        self.sensor = definitions.get_repository_def().get_sensor_def("new_files_in_inbox")
        self.cursor: str | None = None

    def tick(self) -> list[str | None]:
        context = dg.build_sensor_context(cursor=self.cursor)
        data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return [request.run_key for request in data.run_requests or []]


def test_growing_file_waits_until_it_is_whole(miniature: Path) -> None:
    inbox = Inbox(miniature)
    path = inbox.folder / "a folder/video 1.mp4"
    path.parent.mkdir()
    for size in (10, 20, 30):
        path.write_bytes(bytes(size))
        assert inbox.tick() == []
    assert len(inbox.tick()) == 1


def test_same_state_has_the_same_run_key_and_a_change_another(miniature: Path) -> None:
    inbox = Inbox(miniature)
    path = inbox.folder / "a.mp4"
    path.write_bytes(b"one")
    inbox.tick()
    first = inbox.tick()
    assert inbox.tick() == first
    restarted = Inbox(miniature)  # a daemon that lost its cursor
    restarted.tick()
    assert restarted.tick() == first
    stat = path.stat()
    path.write_bytes(b"two")  # the same name and size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    inbox.tick()
    second = inbox.tick()
    assert len(second) == 1
    assert second != first


def test_neither_an_empty_inbox_nor_hidden_files_ask_for_a_run(miniature: Path) -> None:
    inbox = Inbox(miniature)
    assert [inbox.tick(), inbox.tick(), inbox.tick()] == [[], [], []]
    (inbox.folder / ".video.mp4.Xa81Qe").write_bytes(b"rsync writes here, then renames")
    assert [inbox.tick(), inbox.tick()] == [[], []]


def test_schedule_is_weekly_and_both_are_off() -> None:
    definitions = build_definitions(load_pipeline(REPO)).get_repository_def()
    schedule = definitions.get_schedule_def("weekly")
    start = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    times = cron_string_iterator(start, str(schedule.cron_schedule), "UTC")
    first, second = next(times), next(times)
    assert (second - first).days == 7
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    sensor = definitions.get_sensor_def("new_files_in_inbox")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
