"""Fine-tuned networks beside what they must beat, on logits that are known."""

import itertools

import numpy as np
import pytest

from tests.evaluate.world import make_clips
from vatt.evaluate.features import Seen
from vatt.evaluate.finetuned import TaskEntry, TaskResult, measure_task, summarise_task
from vatt.evaluate.linear_evaluation import Skipped

CLASSES = ["a", "b", "c"]


def make_splits(test_labels: list[list[str]]) -> dict[str, Seen]:
    """Features say the first label, but of the last test clip they say another."""
    generator = np.random.default_rng(0)
    labels = {"train": [[name] for name in "abc"] * 20, "validation": [], "test": test_labels}
    splits = {}
    for split, rows in labels.items():
        clips = make_clips(
            [f"{split} {number}" for number in range(len(rows))],
            [{"t": row} for row in rows],
            [()] * len(rows),
            places=(0.0, 1.0),
        )
        features = generator.normal(size=(len(rows), 1, 4)) * 0.1
        for number, row in enumerate(rows):
            seen = row[0] if (split, number) != ("test", len(rows) - 1) else "b"
            features[number, 0, CLASSES.index(seen) if seen in CLASSES else 3] += 1
        splits[split] = Seen(clips, {"video": features, "audio": features})
    return splits


def answer(rows: list[str]) -> np.ndarray:
    """Logits of two windows that say each answer only together."""
    logits = np.zeros((len(rows), 2, 3))
    for number, name in enumerate(rows):
        logits[number, 0, CLASSES.index(name)] = 3
        logits[number, 1, (CLASSES.index(name) + 1) % 3] = 2
    return logits


def enter(logits: dict[str, np.ndarray], *, is_multi_label: bool = False) -> TaskEntry:
    return TaskEntry("video", "t", is_multi_label, CLASSES, logits, "other weights")


def measure(entry: TaskEntry, splits: dict[str, Seen]) -> TaskResult:
    result = measure_task(entry, splits)
    assert isinstance(result, TaskResult)
    return result


def test_each_network_is_measured_on_the_same_clips() -> None:
    truth = ["a", "b", "c", "a", "a"]
    logits = {
        "model": answer(truth),
        "scratch": answer(["a", "b", "c", "b", "b"]),
        "untrained": np.ones((5, 2, 3)),
    }
    result = measure(enter(logits), make_splits([[name] for name in truth]))
    values = {name: score.value for name, score in result.scores.items()}
    expected = {"model": 1, "scratch": 0.6, "untrained": 1 / 3, "linear_probe": 0.8}
    # Chance is that of always answering the commonest class.
    assert values == pytest.approx({**expected, "chance": 0.6})
    assert result.confusion == [[3, 0, 0], [0, 1, 0], [0, 0, 1]]
    numbers = summarise_task(result)
    assert (numbers["accuracy"], numbers["scratch"], numbers["num_test"]) == (1, 0.6, 5)
    low, high = numbers["scratch_interval"]
    assert 0 <= low < 0.6 < high <= 1
    assert (numbers["initial"], numbers["more"]) == ("other weights", {})
    assert "top5" not in numbers


def test_a_label_that_the_network_does_not_know_is_wrong_and_counted() -> None:
    result = measure(
        enter({"model": answer(["a", "b", "c", "a"])}),
        make_splits([["a"], ["b"], ["new"], ["a"]]),
    )
    assert result.scores["model"].value == pytest.approx(3 / 4)
    assert result.num_unknown == 1
    assert result.confusion == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    nothing_known = measure(enter({"model": answer(["a", "b"])}), make_splits([["new"], ["other"]]))
    assert nothing_known.scores["model"].value == 0
    assert nothing_known.confusion is None


def test_several_labels_are_measured_by_map_and_what_goes_with_it() -> None:
    labels = [["a", "c"], ["b", "c"], ["a", "b", "c"], ["a", "c"], ["b", "c"]]
    logits = np.zeros((5, 2, 3))
    logits[:, :, 0] = [[row.count("a")] * 2 for row in labels]  # perfect
    logits[:, :, 1] = [[1], [4], [3], [2], [0]]  # right clips at places 1, 2 and 5
    result = measure(
        enter({"model": logits, "untrained": np.zeros((5, 2, 3))}, is_multi_label=True),
        make_splits(labels),
    )
    precision = (1 + (1 + 1 + 3 / 5) / 3) / 2  # every clip has c: it tells nothing
    numbers = summarise_task(result)
    assert numbers["map"] == pytest.approx(precision)
    assert numbers["auc"] == pytest.approx((1 + 4 / 6) / 2)
    assert numbers["num_left_out"] == 1
    assert list(numbers["more"]) == ["auc", "d_prime", "d_prime_of_mean_auc"]
    auc, d_prime, of_mean = numbers["more"].values()
    assert auc["untrained"] == auc["chance"] == 0.5
    assert d_prime["untrained"] == d_prime["chance"] == 0
    assert auc["scratch"] is None
    low, high = auc["interval"]
    assert low < numbers["auc"] < high == 1
    assert of_mean["interval"] is None  # it ends at infinity
    assert auc["untrained_interval"] == [0.5, 0.5]  # whatever is drawn, all tie
    assert of_mean["untrained_interval"] == [0, 0]
    assert numbers["untrained"] == pytest.approx(3 / 5)  # all tie: the share of the class
    places = itertools.combinations(range(5), 3)  # where three of five clips may stand
    orders = [sum((place + 1) / (k + 1) for place, k in enumerate(ks)) / 3 for ks in places]
    assert numbers["chance"] == pytest.approx(np.mean(orders))
    assert numbers["linear_probe"] is not None
    assert result.confusion is None


def test_map_counts_the_same_classes_for_networks_and_probe() -> None:
    """A label that only test clips have fits all equally badly: its precision is its share."""
    labels = [["a", "new"], ["b"], ["a"], ["b"]]
    logits = np.zeros((4, 2, 3))
    for number, row in enumerate(labels):
        logits[number, :, CLASSES.index(row[0])] = 5
    splits = make_splits([*labels, ["b"]])  # the features of the last clip say b
    logits = np.concatenate([logits, logits[1:2]])
    result = measure(enter({"model": logits}, is_multi_label=True), splits)
    expected = (1 + 1 + 1 / 5) / 3
    for name in ("model", "linear_probe"):
        assert result.scores[name].value == pytest.approx(expected)
    assert (result.num_unknown, result.num_left_out) == (1, 1)


def test_what_cannot_be_measured_is_skipped_with_the_reason() -> None:
    for labels in ([["a"]], [["a", "b"], ["b", "a"]]):
        entry = enter({"model": np.ones((len(labels), 2, 3))}, is_multi_label=True)
        assert summarise_task(measure_task(entry, make_splits(labels))) == {
            "skipped": "no class tells the test clips apart"
        }
    result = measure_task(enter({}), make_splits([]))  # networks that saw nothing
    assert result == Skipped("no test clip has the modality and a label of the task t")


def test_top_5_is_given_where_there_are_more_classes() -> None:
    classes = [str(number) for number in range(7)]
    logits = np.tile(np.arange(7.0), (7, 1))[:, None]
    right = np.eye(7)[:, None]
    entry = TaskEntry(
        "video", "t", False, classes, {"model": logits, "untrained": right}, "this network"
    )
    splits = make_splits([[name] for name in classes])
    numbers = summarise_task(measure(entry, splits))
    assert numbers["top5"] == pytest.approx(5 / 7)
    beside = numbers["more"]["top5"]
    assert (beside["untrained"], beside["scratch"]) == (1, None)
    assert beside["chance"] == pytest.approx(5 / 7)
    low, high = beside["interval"]
    assert 0 <= low < 5 / 7 < high <= 1
