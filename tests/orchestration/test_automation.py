"""The sensor asks once for each complete state of the inbox; nothing runs unless turned on."""

import os
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from dagster._utils.schedules import cron_string_iterator

from orchestration.definitions import build_definitions
from orchestration.pipeline import load_pipeline
from tests.orchestration.miniature import REPO


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


def test_empty_inbox_asks_for_nothing(miniature: Path) -> None:
    inbox = Inbox(miniature)
    assert [inbox.tick() for _ in range(3)] == [[], [], []]


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


def test_hidden_files_do_not_count(miniature: Path) -> None:
    inbox = Inbox(miniature)
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


def test_jobs_hold_what_their_names_say() -> None:
    pipeline = load_pipeline(REPO)
    definitions = build_definitions(pipeline)
    everything = definitions.resolve_job_def("everything")
    assets = {stage.asset for stage in pipeline.stages.values()}
    assert {node.name for node in everything.nodes} >= assets
    evaluation = definitions.resolve_job_def("evaluation_only")
    keys = evaluation.asset_layer.executable_asset_keys
    assert {key.to_user_string() for key in keys} == {"evaluate"}
