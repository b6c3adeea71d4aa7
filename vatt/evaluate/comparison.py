"""A trained network beside the same network untrained and beside chance, on all measures."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from threadpoolctl import threadpool_limits

from vatt.corpus.manifest import FOLD_TASK
from vatt.evaluate.classifiers import Method
from vatt.evaluate.clips import Clips
from vatt.evaluate.features import SplitReader
from vatt.evaluate.finetuned import TaskEntry, TaskResult, measure_task, summarise_task
from vatt.evaluate.measures import Interval
from vatt.evaluate.networks import Arrays, Observer
from vatt.evaluate.probes import Fold, Probe, Seen, Skipped, build_folds, probe
from vatt.evaluate.retrieval import (
    DIRECTIONS,
    Average,
    Ranks,
    Retrieval,
    Search,
    estimate_intervals,
    measure_chance,
    measure_retrieval,
    open_search,
)

MODALITIES = ("video", "audio")
OTHER_METHODS: tuple[Method, ...] = ("svm", "lrc")
"""Beside logistic regression."""


class Split(NamedTuple):
    """The clips of a split, and how each of the two networks sees them."""

    clips: Clips
    trained: Arrays
    untrained: Arrays


class RankedPair(NamedTuple):
    """Ranks of the right clip by both networks, for the clips that have query and video.

    cosine: by the trained one, when similarities of windows are averaged in place of embeddings.
    searches: what was ranked for the first two.
    """

    trained: Ranks
    untrained: Ranks
    cosine: Ranks
    searches: tuple[Search, Search]


class ProbePair(NamedTuple):
    """A probe of one task on features of one modality of both networks.

    others: by the other linear classifiers, of the trained and of the untrained network.
    """

    task: str
    modality: str
    trained: Probe | Skipped
    untrained: Probe | Skipped
    others: Mapping[Method, tuple[Probe | Skipped, Probe | Skipped]]


class Comparison(NamedTuple):
    """All results: `retrieval` by direction, the test split only; `probes` by task and modality.

    finetuned: by task, those that were skipped too.
    """

    retrieval: Mapping[str, RankedPair]
    probes: Sequence[ProbePair]
    finetuned: Mapping[str, TaskResult | Skipped]


def compare_networks(
    splits: Mapping[str, Split],
    finetuned: Mapping[str, TaskEntry | Skipped] | None = None,
    lrc_steps: int = 0,
    probe_tasks: Collection[str] | None = None,
) -> Comparison:
    """Measure both networks on `splits` train, validation and test, and what was fine-tuned.

    Without `lrc_steps` the factorised classifier is left out. Linear classifiers are fitted to the
    labels `probe_tasks`, also beside fine-tuned networks; None: to all that the clips have.
    """
    retrieval = {direction: _rank_both(direction, splits["test"]) for direction in DIRECTIONS}
    tasks = list_label_tasks(splits) if probe_tasks is None else sorted(set(probe_tasks))
    trained = {name: Seen(split.clips, split.trained) for name, split in splits.items()}
    untrained = {name: Seen(split.clips, split.untrained) for name, split in splits.items()}
    with threadpool_limits(1):  # small fits: threads cost far more than they give
        probes = [
            _probe_both(
                (task, modality),
                build_folds(task, modality, trained),
                build_folds(task, modality, untrained),
                lrc_steps,
            )
            for task in tasks
            for modality in MODALITIES
        ]
        results = {
            name: entry
            if isinstance(entry, Skipped)
            else measure_task(
                entry, trained, with_probe=probe_tasks is None or entry.label in probe_tasks
            )
            for name, entry in (finetuned or {}).items()
        }
    return Comparison(retrieval, probes, results)


def list_label_tasks(splits: Mapping[str, Split]) -> list[str]:
    """Return the names of the labels that any clip has."""
    rows = (row for split in splits.values() for row in split.clips.labels)
    return sorted({task for row in rows for task in row} - {FOLD_TASK})


def _rank_both(direction: str, test: Split) -> RankedPair:
    trained = open_search(direction, test.clips, test.trained)
    untrained = open_search(direction, test.clips, test.untrained)
    cosine = rank_direction(direction, test.clips, test.trained, "similarities")
    return RankedPair(trained.rank(), untrained.rank(), cosine, (trained, untrained))


def rank_direction(
    direction: str, clips: Clips, features: Arrays, average: Average = "embeddings"
) -> Ranks:
    """Rank the clips that have what `direction` needs: a video, and a text or a sound."""
    return open_search(direction, clips, features, average).rank()


def measure_test_split(reader: SplitReader, network: Observer) -> dict[str, float | None]:
    """Return the retrieval results of one network, without probes."""
    clips, (features,) = reader.read("test", [network])
    return summarise_retrieval(
        {direction: rank_direction(direction, clips, features) for direction in DIRECTIONS}
    )


def _probe_both(
    name: tuple[str, str], trained: Sequence[Fold], untrained: Sequence[Fold], lrc_steps: int
) -> ProbePair:
    methods = [method for method in OTHER_METHODS if method != "lrc" or lrc_steps]
    others = {
        method: (probe(trained, method, lrc_steps), probe(untrained, method, lrc_steps))
        for method in methods
    }
    return ProbePair(*name, probe(trained), probe(untrained), others)


def summarise_retrieval(ranks: Mapping[str, Ranks]) -> dict[str, float | None]:
    """Return the results of all directions as `<direction>_r1` and so on."""
    return _flatten({name: measure_retrieval(of_name) for name, of_name in ranks.items()})


def summarise(comparison: Comparison) -> dict[str, Any]:
    """Return all numbers for metrics/evaluate.json; those of the trained network stand on top."""
    pairs = comparison.retrieval
    searches = {name: pair.searches[0] for name, pair in pairs.items()}
    probes: dict[str, dict[str, Any]] = {}
    for pair in comparison.probes:
        probes.setdefault(pair.task, {})[pair.modality] = _summarise_probes(pair)
    asked = searches["text_to_video"]
    chance = {name: measure_chance(len(search.samples)) for name, search in searches.items()}
    return {
        **summarise_retrieval({name: pair.trained for name, pair in pairs.items()}),
        **{f"{name}_pairs": len(search.right) for name, search in searches.items()},
        **{f"{name}_items": len(search.samples) for name, search in searches.items()},
        "retrieval_sources": asked.sources,
        "retrieval_notes": _list_notes(asked),
        "intervals": _list_intervals(pairs, "trained"),
        "untrained": summarise_retrieval({name: pair.untrained for name, pair in pairs.items()}),
        "untrained_intervals": _list_intervals(pairs, "untrained"),
        "cosine": summarise_retrieval({name: pair.cosine for name, pair in pairs.items()}),
        "cosine_intervals": _list_intervals(pairs, "cosine"),
        "chance": _flatten(chance),
        "probes": probes,
        "finetuned": {
            name: summarise_task(result) for name, result in comparison.finetuned.items()
        },
    }


def _list_notes(search: Search) -> list[str]:
    """Say in what a search is not as the papers search."""
    notes = []
    if len(search.sources) > 1:
        notes.append(
            f"The texts of {len(search.sources)} sources are searched among the clips of all of them; "
            "in the papers each data set is searched by itself."
        )
    if len(set(search.videos)) < len(search.samples):
        notes.append(
            "Several items are parts of one video, cut at fixed times; in the papers they are the "
            "annotated parts, from their starts to their ends."
        )
    return notes


def _list_intervals(pairs: Mapping[str, RankedPair], network: str) -> dict[str, Interval | None]:
    return {
        f"{direction}_{measure}": interval
        for direction, pair in pairs.items()
        for measure, interval in estimate_intervals(
            getattr(pair, network), pair.searches[0].videos
        ).items()
    }


def _flatten(results: Mapping[str, Retrieval]) -> dict[str, float | None]:
    return {
        f"{direction}_{measure}": value
        for direction, result in results.items()
        for measure, value in result._asdict().items()
    }


def _summarise_probes(pair: ProbePair) -> dict[str, Any]:
    trained, untrained = pair.trained, pair.untrained
    if isinstance(trained, Skipped):
        return trained._asdict()
    if isinstance(untrained, Skipped):
        return untrained._asdict()
    chances = {
        "chance_uniform": trained.chance_uniform,
        "chance_majority": trained.chance_majority,
    }
    return {
        **_summarise_pair(trained, untrained),
        "chance": max(chances.values()),
        **(chances if trained.measure == "accuracy" else {}),
        "num_classes": len(trained.classes),
        "num_folds": len(trained.folds),
        **({"folds": trained.folds} if len(trained.folds) > 1 else {}),
        "num_train": trained.num_train,
        "num_test": trained.num_test,
        "regularisation_c": trained.regularisation_c,
        **{
            method: _summarise_pair(ours, theirs)
            for method, (ours, theirs) in pair.others.items()
            if isinstance(ours, Probe) and isinstance(theirs, Probe)
        },
    }


def _summarise_pair(trained: Probe, untrained: Probe) -> dict[str, Any]:
    return {
        "measure": trained.measure,
        trained.measure: trained.value,
        "interval": trained.interval,
        "untrained": untrained.value,
        "untrained_interval": untrained.interval,
    }
