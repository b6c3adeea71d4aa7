"""Stage `pretrain`: self-supervised training, and the export of its weights."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from vatt.core.files import write_json
from vatt.corpus.gate import require_passed
from vatt.corpus.index import read_index
from vatt.corpus.tokenizer import AnyTokenizer, find_tokenizer, open_tokenizer
from vatt.launch.launcher import launch as launch_job
from vatt.model.towers import restore_weights
from vatt.params import (
    ClipParams,
    LaunchParams,
    LossParams,
    ModelParams,
    PretrainParams,
    RunParams,
)
from vatt.train.recipe import Job, PretrainRecipe, name_run
from vatt.weights.export import ExportedParams, build_untrained, save_export
from vatt.weights.initial import write_initial_weights, write_word_vectors

PREPROCESS_DIR = Path("data/preprocess")
OUT_DIR = Path("data/pretrain")
VERDICT_PATH = Path("metrics/validate.json")
CURVE_PATH = Path("metrics/pretrain_curve.jsonl")
PLOT_PATH = Path("metrics/pretrain_plot.json")
RUNS_DIR = Path(".cache/pretrain")
INITIAL_PATH = RUNS_DIR / "initial.safetensors"


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
        StageError: the corpus was not validated, has nothing to learn from, training failed, or a disk
            refuses what is written.
    """
    index_digest = require_passed(PREPROCESS_DIR, VERDICT_PATH)
    tokenizer, tokenizer_path = open_tokenizer(PREPROCESS_DIR), find_tokenizer(PREPROCESS_DIR)
    rates_hz = read_index(PREPROCESS_DIR, columns=["frame_rate_hz"])["frame_rate_hz"]
    params = ExportedParams(
        clip=clip,
        model=model,
        frame_rate_hz=rates_hz.max(),
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer_path.name,
        seed=run.seed,
        code_version=version("vatt"),
        loss=loss,
        pretrain=pretrain,
    )
    recipe = PretrainRecipe(
        run=run,
        clip=clip,
        model=model,
        loss=loss,
        pretrain=pretrain,
        launch=launch,
        vocab_size=tokenizer.vocab_size,
        index_digest=index_digest,
        tokenizer_digest=hashlib.blake2b(tokenizer_path.read_bytes()).hexdigest(),
    )
    weights_path = _train(recipe, _write_first_weights(pretrain, params, tokenizer))
    return {
        **_write_plot()[-1],
        "num_clips": pretrain.num_steps * pretrain.batch_size,
        "num_parameters": _export(weights_path, params, tokenizer_path),
    }


def _write_first_weights(
    pretrain: PretrainParams, params: ExportedParams, tokenizer: AnyTokenizer
) -> Path | None:
    """Write the weights that training starts from and return where, None if all are random."""
    if pretrain.initial_weights:
        write_initial_weights(pretrain.initial_weights, params, tokenizer, INITIAL_PATH)
    elif pretrain.word_vectors:
        write_word_vectors(pretrain.word_vectors, params, INITIAL_PATH)
    else:
        return None
    return INITIAL_PATH


def _train(recipe: PretrainRecipe, initial_weights: Path | None) -> Path:
    """Run the training and return where its weights are."""
    job = Job(
        recipe=recipe,
        initial_weights=initial_weights,
        preprocess_dir=PREPROCESS_DIR,
        directory=RUNS_DIR / name_run(recipe, initial_weights),
        curve_path=CURVE_PATH,
    )
    launch_job(job)
    return job.weights_path


def _export(weights_path: Path, params: ExportedParams, tokenizer_path: Path) -> int:
    """Write the export of trained weights and return how many there are."""
    trained = build_untrained(params)
    restore_weights(trained, load_file(weights_path))
    save_export(OUT_DIR, trained, params, tokenizer_path)
    return sum(parameter.numel() for parameter in trained.parameters())


def _write_plot() -> list[dict[str, Any]]:
    """Write the curve as one document, because `dvc plots` reads no JSONL; return its rows."""
    rows = [json.loads(line) for line in CURVE_PATH.read_text(encoding="utf-8").splitlines()]
    write_json(PLOT_PATH, {"curve": rows})
    return rows
