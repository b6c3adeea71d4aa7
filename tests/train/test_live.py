"""What a run shows while it goes on: the same numbers in logs, in TensorBoard and on its output."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dagster_pipes import PipesContext, encode_param
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.train.corpus import PRETRAIN, build_engine, build_run, make_batch
from vatt.model.cost import Cost
from vatt.train.loop import Validation, train
from vatt.train.monitor import Speed
from vatt.train.precision import measure_peak
from vatt.train.pretraining import measure_health

COST = Cost(num_tokens=10, training=1000)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run that validated; what it reported is in reports.jsonl."""
    directory = tmp_path_factory.mktemp("shown")
    updates = {"num_steps": 8, "validate_every_steps": 4}
    pretrain = PRETRAIN.model_copy(update=updates)
    measure = partial(measure_health, batches=[make_batch(99)])
    run = build_run(directory, pretrain, validation=Validation("health", measure), cost=COST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_PIPES_CONTEXT", encode_param({"data": {}}))
        messages = {"path": str(directory / "reports.jsonl")}
        patch.setenv("DAGSTER_PIPES_MESSAGES", encode_param(messages))
        train(build_engine(pretrain=pretrain), *run)
        PipesContext.set(None)  # type: ignore[arg-type]
    (directory / "curve.jsonl").rename(directory / "run/curve.jsonl")
    (directory / "reports.jsonl").rename(directory / "run/reports.jsonl")
    return directory / "run"


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_places_show_the_same(shown: Path) -> None:
    events = EventAccumulator(str(shown / "tensorboard"))
    events.Reload()
    messages = read_rows(shown / "reports.jsonl")
    custom = [message for message in messages if message["method"] == "report_custom_message"]
    reported = [message["params"]["payload"] for message in custom]
    for kind in ("curve", "speed", "health"):
        rows = read_rows(shown / f"{kind}.jsonl")
        assert [row["step"] for row in rows] == [4, 8]
        of_kind = [numbers for numbers in reported if numbers["kind"] == kind]
        assert of_kind == [{"kind": kind, **row} for row in rows]
        for name in rows[0].keys() - {"step"}:
            drawn = events.Scalars(f"{kind}/{name}")
            assert [event.step for event in drawn] == [4, 8]
            assert [event.value for event in drawn] == pytest.approx(
                [row[name] for row in rows], rel=1e-6
            )


def test_speed_follows_from_clips_and_cost(shown: Path) -> None:
    for row in read_rows(shown / "speed.jsonl"):
        assert row["tokens_per_second"] == pytest.approx(10 * row["clips_per_second"])
        assert row["flops_per_second"] == pytest.approx(1000 * row["clips_per_second"])
        peak = row["measured_peak_flops_per_second"]
        assert row["flop_utilisation"] == pytest.approx(row["flops_per_second"] / peak)
        assert row["memory_bytes"] > 1e8
        shares = [row[f"{what}_rate"] for what in ("waiting", "saving", "validating", "ranks")]
        assert all(0 <= share <= 1 for share in shares)
        assert row["validating_rate"] > 0 or row["step"] == 4


def test_a_matrix_product_does_not_exceed_the_peak() -> None:
    """The peak is that of this machine: a second look finds about as much."""
    engine = build_engine()
    first, second = measure_peak(engine), measure_peak(engine)
    assert 1e9 < first < 1e14
    assert 0.1 < first / second < 10


def test_time_is_counted_once() -> None:
    engine, started_s = build_engine(), time.perf_counter()
    speed = Speed(engine, None)
    with speed.spending("waiting"):
        time.sleep(0.02)
    speed.count(8)
    waiting_rate = speed.close_window()["waiting_rate"]
    assert 1 >= waiting_rate >= 0.02 / (time.perf_counter() - started_s)
    assert speed.close_window()["waiting_rate"] == 0
    assert "flop_utilisation" not in speed.close_window()
