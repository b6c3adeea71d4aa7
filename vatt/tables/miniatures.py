"""The papers' tables in miniature: `python -m vatt.tables droptoken` and so on, on the demo corpus.

A table varies one setting, for each seed from the same corpus, first weights and order, and writes
docs/tables/<name>.json. The network as it is set is the same run in all tables.
"""

import json
import re
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any, NamedTuple

from tqdm import tqdm

from vatt.core.files import write_json
from vatt.description import build_model
from vatt.model.cost import add_costs, count_clip
from vatt.params import Params, load_params
from vatt.tables.claims import DIGITS, read_values
from vatt.tables.document import TABLES_DIR
from vatt.tables.intervals import summarise
from vatt.tables.results import RUNS_DIR, SEEDS, build_run
from vatt.tables.run import CORPUS_STAGES, PARAMS_PATH, Run

STEPS_RATE = 0.5
"""The share of the steps of pre-training that a miniature has."""
SHARED = ("data/preprocess", "metrics/validate.json")
STAGES = (("pretrain",), ("evaluate",))
EVALUATE = {"lrc_steps": 0, "num_windows": 2, "max_train_clips": 500}
"""How each network is measured, with less than in the demo."""


class Variant(NamedTuple):
    """A column of a table."""

    title: str
    settings: Mapping[str, Any]
    """What differs from params.yaml."""


def list_variants(table: str, params: Params) -> list[Variant]:
    """Return the columns of a table; the last one is expected to be the best.

    Of `negatives`, clips, steps and updates are the same in all: they are of the same part of a
    batch, of which there are four, two and one.
    """
    if table == "droptoken":
        rates = (0.75, 0.5, 0.25, 0.0)
        return [Variant(f"drop {100 * x:.0f} %", {"model": {"drop_token_rate": x}}) for x in rates]
    if table == "candidates":
        return [Variant(f"{x} candidates", {"clip": {"num_candidates": x}}) for x in (1, 3, 5)]
    if table == "negatives":
        size, parts = params.pretrain.batch_size, "accumulation_steps"
        return [Variant(f"{size // x} clips", {"pretrain": {parts: x}}) for x in (4, 2, 1)]
    video = params.model.model_dump(mode="json")["video"]
    shared = {"shared_encoder": True, "audio": video, "text": video, "text_style": "bert"}
    return [Variant("one for all", {"model": shared}), Variant("one encoder each", {})]


def measure_table(table: str, seeds: Sequence[int] = SEEDS[:3]) -> None:
    """Run the variants of a table for each seed, and write docs/tables/<table>.json.

    Raises:
        StageError: a stage failed.
    """
    params = load_params(PARAMS_PATH)
    variants = list_variants(table, params)
    corpora = [build_run(seed, stages=CORPUS_STAGES) for seed in seeds]
    runs = [[build_variant(own.settings, corpus, params) for corpus in corpora] for own in variants]
    plan = [*corpora, *(run for of_variant in runs for run in of_variant)]
    with tqdm(total=sum(len(run.stages) for run in plan), unit="stage", smoothing=0) as bar:
        for run in plan:
            run.carry_out(bar)
    seconds = [run.read_cpu_s()[" ".join(stage)] for run in plan for stage in run.stages]
    content = {
        "seeds": list(seeds),
        "steps": load_params(runs[0][0].folder / "params.yaml").pretrain.num_steps,
        "cpu_minutes": round(sum(seconds) / 60, 1),
        "variants": [variant.title for variant in variants],
        "gflops": [round(count_gflops(of_variant[0]), DIGITS) for of_variant in runs],
        "step_s": [_round([read_step_s(run) for run in of_variant]) for of_variant in runs],
        "numbers": _compare(runs),
    }
    write_json(TABLES_DIR / f"{table}.json", content)


def build_variant(settings: Mapping[str, Any], corpus: Run, params: Params) -> Run:
    """Return the pre-training and evaluation of a variant; `params` are those of the demo."""
    known = params.model_dump(mode="json")
    settings = {
        section: changed
        for section, values in settings.items()
        if (changed := {key: x for key, x in values.items() if known[section][key] != x})
    }
    text = json.dumps(settings) if settings else "as set"
    num_steps = max(1, round(STEPS_RATE * params.pretrain.num_steps))
    shorter = {
        "num_steps": num_steps,
        "warmup_steps": min(params.pretrain.warmup_steps, num_steps),
        "validate_every_steps": None,
    }
    return Run(
        folder=RUNS_DIR / "tables" / re.sub(r"\W+", "_", text).strip("_") / corpus.folder.name,
        settings={
            **corpus.settings,
            **settings,
            "pretrain": {**shorter, **settings.get("pretrain", {})},
            "evaluate": EVALUATE,
        },
        stages=STAGES,
        base=corpus,
        shared=SHARED,
    )


def count_gflops(run: Run) -> float:
    """Return the GFLOPs of the forward pass of a clip in training: every matrix product."""
    params = load_params(run.folder / "params.yaml")
    model = build_model(params, params.preprocess.vocab_size)
    costs = count_clip(model, params.clip, params.model.drop_token_rate)
    return float(add_costs(costs.values()).full) / 1e9


def read_step_s(run: Run) -> float:
    """Return the median time of a step, waiting for data included, of the newest training."""
    paths = (run.folder / ".cache/pretrain").glob("*/speed.jsonl")
    newest = max(paths, key=lambda path: path.stat().st_mtime)
    rows = [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]
    size = load_params(run.folder / "params.yaml").pretrain.batch_size
    clips_per_second: float = median(row["clips_per_second"] for row in rows)
    return size / clips_per_second


def _compare(runs: Sequence[Sequence[Run]]) -> list[dict[str, Any]]:
    """Return each number of trained networks by variant and seed, and the last less the first.

    Differences are of the same seed.
    """
    found = [
        [
            {own.name: own.value for own in read_values(run.read_metrics("evaluate"))}
            for run in of_variant
        ]
        for of_variant in runs
    ]
    numbers = []
    for name in (name for name in found[0][0] if name.endswith(", trained")):
        rows = [[values[name] for values in of_variant] for of_variant in found]
        gain = summarise([last - first for first, last in zip(rows[0], rows[-1], strict=True)])
        numbers.append(
            {
                "name": name.removesuffix(", trained"),
                "runs": [_round(row) for row in rows],
                "means": _round([mean(row) for row in rows]),
                "intervals": [_round(summarise(row).interval) for row in rows],
                "gain": {"mean": round(gain.mean, DIGITS), "interval": _round(gain.interval)},
            }
        )
    return numbers


def _round(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]
