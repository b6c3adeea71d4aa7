"""A trained network beside the same network untrained and beside chance, by all metrics."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from threadpoolctl import threadpool_limits

from vatt.corpus.manifest import FOLD_TASK
from vatt.evaluate.features import Seen
from vatt.evaluate.finetuned import TaskEntry, TaskResult, measure_task, summarise_task
from vatt.evaluate.linear_classifiers import Method
from vatt.evaluate.linear_evaluation import Probe, Skipped, build_folds, probe
from vatt.evaluate.metrics import Ranks, estimate_intervals, measure_chance, measure_retrieval
from vatt.evaluate.retrieval import DIRECTIONS, Search, open_search
from vatt.evaluate.selection import EVERYTHING, Subset

PROBED = ("video", "audio")
MAX_NAMED = 5
"""How many of the parts that are left out a note names."""
METHODS: tuple[Method, ...] = ("logistic", "svm", "lrc")
Splits = Mapping[str, Seen]
"""The splits train, validation and test as a network sees them."""


class RankedPair(NamedTuple):
    """Ranks of the right clip by both networks, for the clips that have query and video."""

    search: Search
    """What the trained network ranked."""
    trained: Ranks
    untrained: Ranks
    cosine: Ranks
    """By the trained network, where similarities of windows are averaged, not embeddings."""


ProbePairs = Mapping[Method, tuple[Probe | Skipped, Probe | Skipped]]
"""By classifier, on features of the trained and the untrained network."""


class Comparison(NamedTuple):
    """All results."""

    retrieval: Mapping[str, RankedPair]
    """By direction, on the test split."""
    probes: Mapping[tuple[str, str], ProbePairs]
    """By task and modality."""
    finetuned: Mapping[str, TaskResult | Skipped]
    """By task."""


def compare_networks(
    trained: Splits,
    untrained: Splits,
    finetuned: Mapping[str, TaskEntry | Skipped] | None = None,
    lrc_steps: int = 0,
    probe_tasks: Collection[str] | None = None,
    subset: Subset = EVERYTHING,
) -> Comparison:
    """Measure both networks, and what was fine-tuned.

    Without `lrc_steps` the factorised classifier is left out. Linear classifiers are fitted to the
    labels `probe_tasks`, also beside fine-tuned networks; None: to all that the clips have. They
    learn from a `subset` of the split train.
    """
    retrieval = {}
    for direction in DIRECTIONS:
        search, other = (open_search(direction, own["test"]) for own in (trained, untrained))
        by_cosine = open_search(direction, trained["test"], "similarities")
        retrieval[direction] = RankedPair(search, search.rank(), other.rank(), by_cosine.rank())
    rows = [row for seen in trained.values() for row in seen.clips.labels]
    known = {task for row in rows for task in row} - {FOLD_TASK}
    methods = METHODS if lrc_steps else METHODS[:2]
    probes: dict[tuple[str, str], ProbePairs] = {}
    with threadpool_limits(1):  # small fits: threads cost far more than they give
        for task in sorted(known if probe_tasks is None else set(probe_tasks)):
            for modality in PROBED:
                ours, theirs = (
                    build_folds(task, modality, own, subset) for own in (trained, untrained)
                )
                probes[task, modality] = {
                    method: (probe(ours, method, lrc_steps), probe(theirs, method, lrc_steps))
                    for method in methods
                }
        results: dict[str, TaskResult | Skipped] = {}
        for name, entry in (finetuned or {}).items():
            if isinstance(entry, Skipped):
                results[name] = entry
            else:
                with_probe = probe_tasks is None or entry.label in probe_tasks
                results[name] = measure_task(entry, trained, subset, with_probe=with_probe)
    return Comparison(retrieval, probes, results)


def summarise(comparison: Comparison) -> dict[str, Any]:
    """Return all numbers for metrics/evaluate.json; those of the trained network stand on top."""
    pairs = comparison.retrieval
    searches = {name: pair.search for name, pair in pairs.items()}
    probes: dict[str, dict[str, Any]] = {}
    for (task, modality), by_method in comparison.probes.items():
        probes.setdefault(task, {})[modality] = _summarise_probes(by_method)
    numbers: dict[str, Any] = {
        "retrieval_sources": searches["text_to_video"].sources,
        "retrieval_notes": _list_notes(searches["text_to_video"]),
        "retrieval_left_out": dict(searches["text_to_video"].left_out),
        "chance": _flatten({k: measure_chance(len(own.samples)) for k, own in searches.items()}),
        "probes": probes,
        "finetuned": {
            name: summarise_task(result) for name, result in comparison.finetuned.items()
        },
    }
    for name, search in searches.items():
        numbers |= {f"{name}_pairs": len(search.right), f"{name}_items": len(search.samples)}
    for network in ("trained", "untrained", "cosine"):
        ranks: dict[str, Ranks] = {name: getattr(pair, network) for name, pair in pairs.items()}
        values = _flatten({name: measure_retrieval(own) for name, own in ranks.items()})
        intervals = _flatten(
            {name: estimate_intervals(ranks[name], searches[name].videos) for name in ranks}
        )
        if network == "trained":
            numbers |= {**values, "intervals": intervals}
        else:
            numbers |= {network: values, f"{network}_intervals": intervals}
    return numbers


def _flatten(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return `<direction>_<metric>` of all directions and metrics."""
    return {
        f"{direction}_{metric}": value
        for direction, result in results.items()
        for metric, value in result.items()
    }


def _list_notes(search: Search) -> list[str]:
    """Say in what a search is not as the papers search."""
    notes = []
    if len(search.sources) > 1:
        notes.append(
            f"The texts of {len(search.sources)} sources are searched among the clips of all of "
            "them; in the papers each data set is searched by itself."
        )
    if search.is_cut:
        notes.append(
            "Several items are parts of one video, cut at fixed times; in the papers they are the "
            "annotated parts, from their starts to their ends."
        )
    if search.num_parts or search.left_out:
        notes.append(
            f"{search.num_parts} clips are annotated parts, from their starts to their ends."
        )
    if search.left_out:
        named = [f"{name}: {reason}" for name, reason in search.left_out.items()][:MAX_NAMED]
        num_others = len(search.left_out) - len(named)
        others = f"; and {num_others} more, named in metrics/evaluate.json" if num_others else ""
        notes.append(
            f"{len(search.left_out)} annotated parts are left out. {'; '.join(named)}{others}."
        )
    return notes


def _summarise_probes(by_method: ProbePairs) -> dict[str, Any]:
    """Return the numbers of logistic regression, and by name those of the other classifiers."""
    numbers: dict[str, Any] = {}
    for method, (trained, untrained) in by_method.items():
        if isinstance(trained, Skipped):
            return trained._asdict()
        if isinstance(untrained, Skipped):
            return untrained._asdict()
        pair: dict[str, Any] = {
            "measure": trained.metric,
            trained.metric: trained.value,
            "interval": trained.interval,
            "untrained": untrained.value,
            "untrained_interval": untrained.interval,
        }
        cut_short = {"trained": trained.num_cut_short, "untrained": untrained.num_cut_short}
        if any(cut_short.values()):
            pair["fits_cut_short"] = cut_short
        if method != "logistic":
            numbers[method] = pair
            continue
        chances = {name: getattr(trained, name) for name in ("chance_uniform", "chance_majority")}
        counts = ("num_train", "num_test", "regularisation_c")
        numbers = {
            **pair,
            "chance": max(chances.values()),
            **(chances if trained.metric == "accuracy" else {}),
            "num_classes": len(trained.classes),
            "num_folds": len(trained.folds),
            **({"folds": trained.folds} if len(trained.folds) > 1 else {}),
            **{name: getattr(trained, name) for name in counts},
            **({"is_full": True} if trained.is_full else {}),
        }
    return numbers
