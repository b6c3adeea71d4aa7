"""Stage `promote`: make the new model the champion if it is not worse."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vatt.corpus.index import INDEX_NAME, read_index
from vatt.evaluate.annotated import read_test
from vatt.evaluate.card import render_card
from vatt.evaluate.feature_store import FeatureStore
from vatt.evaluate.features import MisfitError, Seen, SplitReader
from vatt.evaluate.metrics import measure_retrieval
from vatt.evaluate.networks import load_embedder
from vatt.evaluate.results import list_conditions, read_evaluation
from vatt.evaluate.retrieval import open_search
from vatt.params import DownloadParams, EvaluateParams, LaunchParams, PromoteParams
from vatt.weights import registry
from vatt.weights.export import read_params

PREPROCESS_DIR = Path("data/preprocess")
FEATURES_DIR = Path(".cache/evaluate")


def main(
    download: DownloadParams, evaluate: EvaluateParams, promote: PromoteParams, launch: LaunchParams
) -> Mapping[str, Any]:
    """Compare the export that was evaluated with the champion; the decision is the metrics.

    An export that is the champion already changes nothing.

    Raises:
        StageError: the evaluation is missing, of another export or under other conditions, or the
            champion is damaged.
    """
    registry.REGISTRY_DIR.mkdir(parents=True, exist_ok=True)  # DVC needs its outputs to exist
    registry.settle_champion()
    export_dir, champion = registry.find_export(evaluate.model), registry.read_champion()
    digest = registry.digest_export(export_dir)
    if champion is not None and champion.record.export_digest == digest:
        print("promote: this model is the champion already")
        return champion.record.decision.model_dump()
    metrics = read_evaluation(digest, list_conditions(PREPROCESS_DIR, evaluate, launch))
    decision = _compare(metrics, champion, evaluate, promote, launch)
    if decision.promoted:
        record = registry.Record(
            export_digest=digest,
            data_version=registry.digest_file(PREPROCESS_DIR / INDEX_NAME),
            test_data=metrics["test_data"],
            code_version=registry.read_code_version(),
            parameters=read_params(export_dir).model_dump(mode="json"),
            metrics=metrics,
            decision=decision,
        )
        card = render_card(record, read_index(PREPROCESS_DIR), download.sources)
        registry.replace_champion(export_dir, record, card)
    print(f"promote: {'promoted' if decision.promoted else 'not promoted'}: {decision.reason}")
    return decision.model_dump()


def _compare(
    metrics: Mapping[str, Any],
    champion: registry.Champion | None,
    evaluate: EvaluateParams,
    promote: PromoteParams,
    launch: LaunchParams,
) -> registry.Decision:
    """Compare with what must be beaten, then with the champion, which is measured as it is now.

    One that cannot have the metric at all gives way.
    """
    name, challenger = promote.metric, metrics[promote.metric]
    direction, _, measure = name.rpartition("_")
    if challenger is None:  # nothing shows that it is better than chance
        why = metrics.get("left_out", {}).get(direction, "the test split has no clips for it")
        return registry.Decision(promoted=False, reason=f"no {name}: {why}", metric=name)
    floors = {
        "chance": metrics["chance"][name],
        "the untrained network": metrics["untrained"][name],
    }
    missed = [
        f"{value:.4f} of {rival}"
        for rival, value in floors.items()
        if value is not None and challenger <= value
    ]
    if missed:
        reason = f"{name} {challenger:.4f} is not above {' and '.join(missed)}"
        return registry.Decision(promoted=False, reason=reason, metric=name, challenger=challenger)
    if champion is None:
        reason = "there was no champion"
        return registry.Decision(promoted=True, reason=reason, metric=name, challenger=challenger)
    embedder, store = load_embedder(champion.path), FeatureStore(FEATURES_DIR)
    why_textless = embedder.exported.why_textless
    if why_textless and direction.startswith("text_"):
        reason = f"the champion has no {name}: {why_textless}"
        return registry.Decision(promoted=True, reason=reason, metric=name, challenger=challenger)
    reader = SplitReader(PREPROCESS_DIR, embedder.exported.params.clip, evaluate, store, launch)
    try:
        clips, arrays = read_test(reader, {"champion": embedder})
        ranks = open_search(direction, Seen(clips, arrays["champion"])).rank()
    except MisfitError as error:
        reason = f"the champion cannot be measured: {error}; remove {champion.path} to start anew"
        return registry.Decision(promoted=False, reason=reason, metric=name, challenger=challenger)
    value = measure_retrieval(ranks)[measure]
    assert value is not None  # the challenger was measured on the same clips
    return registry.decide(promote, challenger, value)
