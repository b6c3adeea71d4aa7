"""A trained network beside the same network untrained and beside chance, on all measures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from threadpoolctl import threadpool_limits

from vatt.evaluation.linear.probe import Labelled, Probe, Skipped, probe, select_labelled
from vatt.evaluation.measures.retrieval import (
    Ranks,
    Retrieval,
    compare_by_cosine,
    measure_chance,
    measure_retrieval,
    rank_pairs,
)
from vatt.evaluation.reading.features import Clips, Features, SplitReader
from vatt.models.vatt import Vatt

DIRECTIONS = ("text_to_video", "audio_to_video")
MODALITIES = ("video", "audio")


class Split(NamedTuple):
    """The clips of a split, and how each of the two networks sees them."""

    clips: Clips
    trained: Features
    untrained: Features


class RankedPair(NamedTuple):
    """Ranks of the right clip by both networks, for the clips that have query and video."""

    trained: Ranks
    untrained: Ranks


class ProbePair(NamedTuple):
    """A probe of one task on features of one modality of both networks."""

    task: str
    modality: str
    trained: Probe | Skipped
    untrained: Probe | Skipped


class Comparison(NamedTuple):
    """All results: `retrieval` by direction, the test split only; `probes` by task and modality."""

    retrieval: Mapping[str, RankedPair]
    probes: Sequence[ProbePair]


def compare_networks(splits: Mapping[str, Split]) -> Comparison:
    """Measure both networks on `splits` train, validation and test."""
    test = splits["test"]
    retrieval = {
        direction: RankedPair(
            rank_direction(direction, test.clips, test.trained),
            rank_direction(direction, test.clips, test.untrained),
        )
        for direction in DIRECTIONS
    }
    tasks = sorted(
        {task for split in splits.values() for row in split.clips.labels for task in row}
    )
    with threadpool_limits(1):  # small fits: threads cost far more than they give
        probes = [_probe_both(task, modality, splits) for task in tasks for modality in MODALITIES]
    return Comparison(retrieval, probes)


def rank_direction(direction: str, clips: Clips, features: Features) -> Ranks:
    """Rank the clips that have what `direction` needs: a video, and a text or a sound."""
    pairs = clips.select_pairs(direction)
    if direction == "text_to_video":
        queries, items = features.text_vt, features.video_vt
    else:
        queries, items = features.audio_va, features.video_va
    return rank_pairs(compare_by_cosine(queries[pairs], items[pairs]))


def measure_test_split(reader: SplitReader, network: Vatt) -> dict[str, float | None]:
    """Return the retrieval results of one network, without probes."""
    clips, (features,) = reader.read("test", [network])
    return summarise_retrieval(
        {direction: rank_direction(direction, clips, features) for direction in DIRECTIONS}
    )


def summarise_retrieval(ranks: Mapping[str, Ranks]) -> dict[str, float | None]:
    """Return the results of all directions as `<direction>_r1` and so on."""
    return _flatten({name: measure_retrieval(of_name) for name, of_name in ranks.items()})


def summarise(comparison: Comparison) -> dict[str, Any]:
    """Return all numbers for metrics/evaluate.json; those of the trained network stand on top."""
    pairs = comparison.retrieval
    num_pairs = {name: len(pair.trained.better) for name, pair in pairs.items()}
    probes: dict[str, dict[str, Any]] = {}
    for pair in comparison.probes:
        probes.setdefault(pair.task, {})[pair.modality] = _summarise_probe(pair)
    return {
        **summarise_retrieval({name: pair.trained for name, pair in pairs.items()}),
        **{f"{name}_pairs": number for name, number in num_pairs.items()},
        "untrained": summarise_retrieval({name: pair.untrained for name, pair in pairs.items()}),
        "chance": _flatten({name: measure_chance(number) for name, number in num_pairs.items()}),
        "probes": probes,
    }


def _flatten(results: Mapping[str, Retrieval]) -> dict[str, float | None]:
    return {
        f"{direction}_{measure}": value
        for direction, result in results.items()
        for measure, value in result._asdict().items()
    }


def _summarise_probe(pair: ProbePair) -> dict[str, Any]:
    if isinstance(pair.trained, Skipped) or isinstance(pair.untrained, Skipped):
        skipped = pair.trained if isinstance(pair.trained, Skipped) else pair.untrained
        return skipped._asdict()
    numbers = pair.trained._asdict()
    del numbers["confusion"], numbers["classes"]
    return {
        **numbers,
        "num_classes": len(pair.trained.classes),
        "untrained": pair.untrained.accuracy,
    }


def _probe_both(task: str, modality: str, splits: Mapping[str, Split]) -> ProbePair:
    trained = [_select(task, modality, split.clips, split.trained) for split in _ordered(splits)]
    untrained = [
        _select(task, modality, split.clips, split.untrained) for split in _ordered(splits)
    ]
    return ProbePair(task, modality, probe(*trained), probe(*untrained))


def _ordered(splits: Mapping[str, Split]) -> list[Split]:
    return [splits[name] for name in ("train", "validation", "test")]


def _select(task: str, modality: str, clips: Clips, features: Features) -> Labelled:
    values = features.video if modality == "video" else features.audio
    present = clips.has_video if modality == "video" else clips.has_audio
    labels = [row[task][0] if task in row else None for row in clips.labels]
    return select_labelled(values, present, labels)
