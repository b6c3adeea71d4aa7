"""Numbers are read by their names, paired by run, and claimed only above what chance gives."""

import json
from statistics import mean
from typing import Any

import pytest

from vatt.tables.claims import Value, compare_schedules, read_values, summarise_runs

NAMED_BY_THE_ISSUE = {
    "video action, fine-tuned - scratch",
    "audio-visual action, fine-tuned - scratch",
    "video action, linear probe, trained - untrained",
    "text to video R@10 / chance",
    "sound to video R@10 / chance",
}


def make_metrics(video: float = 0.45, scratch: float = 0.25) -> dict[str, Any]:
    """The part of metrics/evaluate.json that is read, as the stage writes it."""

    def fine_tune(label: str, value: float, **more: float) -> dict[str, Any]:
        return {"label": label, "measure": "accuracy", "accuracy": value, **more}

    probe = {"measure": "accuracy", "accuracy": 0.5, "untrained": 0.3}
    return {
        "text_to_video_r10": 0.6,
        "audio_to_video_r10": 0.4,
        "chance": {"text_to_video_r10": 0.04, "audio_to_video_r10": 0.05},
        "untrained": {"text_to_video_r10": 0.03, "audio_to_video_r10": 0.06},
        "probes": {"action": {"video": probe, "audio": {"reason": "no clip has a label"}}},
        "finetuned": {
            "video": fine_tune("action", video, scratch=scratch),
            "audio_visual": fine_tune("action", 0.4, scratch=0.5),
            "image": {"skipped": "the corpus lacks the labels"},
        },
    }


def test_names_and_differences() -> None:
    values = {value.name: value for value in read_values(make_metrics())}
    assert values.keys() >= NAMED_BY_THE_ISSUE
    found = {name: round(own.value, 9) for name, own in values.items() if own.is_claim}
    assert found == {
        "text to video R@10 / chance": 15.0,
        "text to video R@10, trained - untrained": 0.57,
        "sound to video R@10 / chance": 8.0,
        "sound to video R@10, trained - untrained": 0.34,
        "video action, linear probe, trained - untrained": 0.2,
        "audio-visual action, fine-tuned - scratch": -0.1,
        "video action, fine-tuned - scratch": 0.2,
    }
    assert values["video action, scratch"].value == 0.25


def test_tuning_gains_nothing_where_the_given_schedule_was_best() -> None:
    given = {"finetuned": {"video": make_metrics(video=0.41)["finetuned"]["video"]}}
    found = {own.name: own.value for own in compare_schedules(make_metrics(), given)}
    assert found == {
        "audio-visual action, tuned - untuned": 0.0,
        "video action, tuned - untuned": pytest.approx(0.04),
    }


def test_the_interval_is_over_seeds_not_over_runs() -> None:
    """Two paths of a seed that agree to the last digit leave the interval as it is with one."""
    one = [[Value("a", "share", x, is_claim=True)] for x in (0.1, 0.3, 0.2)]
    both = [run for run in one for _ in range(2)]
    (single,) = summarise_runs(one, [1, 2, 3])
    (double,) = summarise_runs(both, [1, 1, 2, 2, 3, 3])
    assert single["interval"] == double["interval"]
    assert double["runs"] == [0.1, 0.1, 0.3, 0.3, 0.2, 0.2]
    assert (single["mean"], single["deviation"]) == (0.2, 0.1)
    # 4.303 is Student's t of 2 degrees of freedom.
    assert single["interval"] == pytest.approx([0.2 - 4.303 * 0.1 / 3**0.5, 0.448], abs=1e-3)
    assert single["holds"] is False


def test_claims_hold_above_nothing_to_claim() -> None:
    def summarise(unit: Any, *values: float, is_claim: bool = True) -> Any:
        runs = [[Value("a", unit, value, is_claim)] for value in values]
        return summarise_runs(runs, range(len(values)))[0]["holds"]

    assert summarise("share", 0.1, 0.11, 0.12) is True
    assert summarise("share", -0.1, -0.11, -0.12) is False
    assert summarise("times chance", 0.5, 0.51, 0.52) is False
    assert summarise("times chance", 1.5, 1.51, 1.52) is True
    assert summarise("share", 0.1, 0.1, is_claim=False) is None


def test_a_number_that_one_run_lacks_is_left_out() -> None:
    runs = [[Value("a", "share", 0.1), Value("b", "share", 0.1)], [Value("a", "share", 0.3)]]
    (number,) = summarise_runs(runs, [1, 2])
    assert number["name"] == "a"
    assert number["mean"] == mean([0.1, 0.3])


def test_it_is_json() -> None:
    numbers = summarise_runs([list(read_values(make_metrics()))] * 2, [1, 2])
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
