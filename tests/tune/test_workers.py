"""Whole studies: the same for any number of workers, and whatever ends some of them."""

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.tune.conftest import NUM_STEPS, make_plan, make_study, read_files, read_log
from vatt.core.errors import StageError
from vatt.train.monitor import BadStepsError
from vatt.tune.study import SQLITE_NAME


def at(name: str, step: int, what: Callable[[], object]) -> Callable[[str, int], object]:
    """Return an accident before a step of a trial, whenever it is computed."""
    return lambda *reached: what() if reached == (name, step) else None


def once(folder: Path, what: Callable[[], object]) -> Callable[[], None]:
    """Return what runs something the first time only, whichever process calls it."""

    def run() -> None:
        try:
            (folder / "done").touch(exist_ok=False)
        except FileExistsError:
            return
        what()

    return run


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(error: Exception) -> NoReturn:
    raise error


def test_three_workers_make_the_study_of_one(
    tmp_path: Path, expected: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    make_study(make_plan(num_workers=3), tmp_path)
    assert read_files(tmp_path) == expected
    assert expected.keys() == {"best.json", "trials.json"}
    printed = capfd.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith("tune video: trial")]
    assert len(lines) == 8
    assert any("; 8 of 8, about 0 s left" in line for line in lines)
    assert set(Counter(read_log(tmp_path)).values()) == {1}
    assert not list((tmp_path / "cache").glob("video-*/trial-*[0-9]"))


def test_a_terminal_shows_a_bar_with_the_best_and_no_line_for_a_trial(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    make_study(make_plan(num_trials=2), tmp_path)
    printed, drawn = capfd.readouterr()
    assert printed == ""
    assert re.search(r"tune video: 100%.* 2/2 .*best \d\.\d{4} of trial", drawn)
    assert drawn.count("\n") == 1


def test_a_killed_worker_costs_nothing_but_the_step_that_it_was_at(
    tmp_path: Path, expected: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(num_workers=2, max_restarts=1)
    make_study(plan, tmp_path, at("trial-0002", 4, once(tmp_path, die)))
    assert read_files(tmp_path) == expected
    assert set(Counter(read_log(tmp_path)).values()) == {1}
    assert "a worker ended with -9; another goes on" in capfd.readouterr().out


def test_workers_that_die_again_and_again_end_the_stage(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"tune\.max_restarts = 2; the last one ended with -9"):
        make_study(make_plan(max_restarts=2), tmp_path, at("trial-0003", 1, die))
    finished = {name for name, step in read_log(tmp_path) if step == NUM_STEPS}
    assert finished == {"trial-0000", "trial-0001", "trial-0002"}


def test_an_error_of_a_training_ends_the_stage_and_finished_trials_stay(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    accident = at("trial-0002", 3, lambda: fail(OSError("the disk is full")))
    with pytest.raises(StageError, match="OSError: the disk is full"):
        make_study(make_plan(), tmp_path, accident)
    make_study(make_plan(), tmp_path)
    assert read_files(tmp_path) == expected
    assert set(Counter(read_log(tmp_path)).values()) == {1}


def test_schedules_that_do_not_train_are_given_up_unless_all_are(
    tmp_path: Path,
) -> None:
    accident = at("trial-0001", 2, lambda: fail(BadStepsError("loss is nan")))
    make_study(make_plan(), tmp_path, accident)
    trials = json.loads(read_files(tmp_path)["trials.json"])["trials"]
    assert [trial["trial"] for trial in trials] == list(range(8))
    assert (trials[1]["state"], trials[1]["value"]) == ("pruned", None)
    assert [row["step"] for row in trials[1]["steps"]] == [1]
    with pytest.raises(StageError, match="none of the 8 trials could be trained to the end"):
        make_study(make_plan(), tmp_path / "none", lambda *_: fail(BadStepsError("loss is nan")))


def test_a_storage_that_goes_away_is_told_and_finished_trials_stay(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    database = tmp_path / "cache" / SQLITE_NAME
    hide = once(tmp_path, lambda: database.rename(tmp_path / "hidden"))
    # One worker: else another may be in the middle of a transaction, and its disk seems to fail.
    with pytest.raises(StageError, match=r"null \(.*studies\.db\): .*unable to open .* stays"):
        make_study(make_plan(num_workers=1), tmp_path, at("trial-0004", 2, hide))
    (tmp_path / "hidden").replace(database)
    make_study(make_plan(num_workers=2), tmp_path)
    assert read_files(tmp_path) == expected
    finished = Counter(name for name, step in read_log(tmp_path) if step == NUM_STEPS)
    assert set(finished.values()) == {1}


def test_a_storage_that_cannot_be_used_is_told_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / SQLITE_NAME).write_text("not a database" * 100)
    expected = r"null \(.*/cache/studies\.db\): .*not a database\. Restore the file, or remove it"
    with pytest.raises(StageError, match=expected):
        make_study(make_plan(), tmp_path)
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not installed
    plan = make_plan(storage="postgresql://tuner:secret@127.0.0.1:9/none")
    with pytest.raises(StageError, match=r"tuner:\*\*\*@.*the extra `postgresql`"):
        make_study(plan, tmp_path)


def test_a_study_whose_space_changed_is_another_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(num_trials=2)
    changed = make_plan(num_trials=2, space={"shape": plan.tune.space["shape"]})
    for each in (plan, changed, plan):
        make_study(each, tmp_path)
    printed = [line for line in capfd.readouterr().out.splitlines() if "study" in line]
    changes = "space.learning_rate, space.warmup_steps"
    assert printed == [
        f"tune video: not as in study {plan.name}: {changes}; a new study: {changed.name}",
        f"tune video: study {plan.name} goes on after 2 trials",
    ]
    assert Counter(read_log(tmp_path))["trial-0000", 1] == 2
