"""Stage `pretrain`: self-supervised training, and the export of its weights."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from vatt.core.files import write_json
from vatt.corpus.access import require_passed
from vatt.corpus.index import read_index
from vatt.corpus.tokenizer import AnyTokenizer, find_tokenizer, open_tokenizer
from vatt.launch.launcher import launch as launch_job
from vatt.model.towers import restore_weights
from vatt.params import ClipParams, LaunchParams, LossParams, ModelParams, PretrainParams, RunParams
from vatt.train.lineage import open_runs
from vatt.train.pretraining import HEALTH, describe_learning, summarise_learning
from vatt.train.recipe import Job, PretrainRecipe, name_run
from vatt.weights.export import ExportedParams, build_untrained, save_export
from vatt.weights.initial import write_initial_weights, write_word_vectors

PREPROCESS_DIR = Path("data/preprocess")
OUT_DIR = Path("data/pretrain")
VERDICT_PATH = Path("metrics/validate.json")
CURVE_PATH = Path("metrics/pretrain_curve.jsonl")
PLOT_PATH = Path("metrics/pretrain_plot.json")
RUNS_DIR = Path(".cache/pretrain")


def main(
    run: RunParams,
    clip: ClipParams,
    model: ModelParams,
    loss: LossParams,
    pretrain: PretrainParams,
    launch: LaunchParams,
) -> Mapping[str, Any]:
    """Train on data/preprocess, from the newest checkpoint of the same run, and write the export.

    Raises:
        StageError: the corpus was not validated, has nothing to learn from, training failed, or a
            disk refuses what is written.
    """
    index_digest = require_passed(PREPROCESS_DIR, VERDICT_PATH)
    tokenizer, tokenizer_path = open_tokenizer(PREPROCESS_DIR), find_tokenizer(PREPROCESS_DIR)
    rates_hz = read_index(PREPROCESS_DIR, columns=["frame_rate_hz"])["frame_rate_hz"]
    shared: dict[str, Any] = {"clip": clip, "model": model, "loss": loss, "pretrain": pretrain}
    shared["vocab_size"] = tokenizer.vocab_size
    origin = {"frame_rate_hz": rates_hz.max(), "seed": run.seed, "code_version": version("vatt")}
    params = ExportedParams(**shared, **origin, tokenizer=tokenizer_path.name)
    digest = hashlib.blake2b(tokenizer_path.read_bytes()).hexdigest()
    recipe = PretrainRecipe(
        **shared, run=run, launch=launch, index_digest=index_digest, tokenizer_digest=digest
    )
    initial_path = _write_first_weights(pretrain, params, tokenizer)
    job = Job(
        recipe=recipe,
        initial_weights=initial_path,
        preprocess_dir=PREPROCESS_DIR,
        directory=RUNS_DIR / name_run(recipe, initial_path),
        curve_path=CURVE_PATH,
    )
    open_runs([job])
    launch_job(job)
    trained = build_untrained(params)
    restore_weights(trained, load_file(job.weights_path))
    save_export(OUT_DIR, trained, params, tokenizer_path)
    # The curve as one document, because `dvc plots` reads no JSONL.
    rows = [json.loads(line) for line in CURVE_PATH.read_text(encoding="utf-8").splitlines()]
    write_json(PLOT_PATH, {"curve": rows})
    health_path = job.directory / f"{HEALTH}.jsonl"
    health = health_path.read_text(encoding="utf-8").splitlines() if health_path.is_file() else []
    learned = summarise_learning([json.loads(line) for line in health], pretrain.num_steps)
    print(f"pretrain: {describe_learning(learned) or 'retrieval was not measured'}")
    num_parameters = sum(weight.numel() for weight in trained.parameters())
    num_clips = pretrain.num_steps * pretrain.batch_size
    counts = {"num_clips": num_clips, "num_parameters": num_parameters}
    return {**rows[-1], **counts, "retrieval": learned}


def _write_first_weights(
    pretrain: PretrainParams, params: ExportedParams, tokenizer: AnyTokenizer
) -> Path | None:
    """Return the file with the weights that training starts from; None: all are random."""
    path = RUNS_DIR / "initial.safetensors"
    if pretrain.initial_weights:
        write_initial_weights(pretrain.initial_weights, params, tokenizer, path)
    elif pretrain.word_vectors:
        write_word_vectors(pretrain.word_vectors, params, path)
    else:
        return None
    return path
