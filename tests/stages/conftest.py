"""A small corpus with an untrained export, in folders as the stages leave them, and short runs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS as PREPROCESS
from tests.tiny import TINY_MODEL
from tests.train.corpus import LAUNCH, PRETRAIN
from tests.train.tasks import TASK
from vatt.core.files import write_json
from vatt.corpus.index import digest_index
from vatt.corpus.manifest import Annotation, ManifestEntry, Split, write_manifest
from vatt.corpus.tokenizer import Tokenizer
from vatt.params import ClipParams, EvaluateParams, LaunchParams, RunParams, Task, TaskName
from vatt.preprocess.corpus import write_corpus
from vatt.stages import evaluate
from vatt.weights.export import ExportedParams, build_untrained, save_export

ROOT = Path(__file__).parents[2]
RUN = RunParams(seed=3)
EVALUATE = EvaluateParams(
    model="data/pretrain",
    num_windows=2,
    batch_size=3,
    lrc_steps=20,
    probe_tasks=None,
    analyses=False,  # takes a second or two; tests/stages/test_analyses.py has them
)
SHORT = PRETRAIN.model_copy(update={"num_steps": 3, "warmup_steps": 1, "batch_size": 4})
LETTER = TASK.model_copy(
    update={"label": "letter", "initial_weights": "pretrain", "num_steps": 4, "batch_size": 2}
)
EXPORTED = ExportedParams(
    clip=ClipParams(
        num_frames=4, frame_size_px=32, num_samples=38400, num_tokens=8, num_candidates=2
    ),
    model=TINY_MODEL.model_copy(update={"dropout_rate": 0.0}),
    frame_rate_hz=PREPROCESS.frame_rate_hz,
    vocab_size=1,
    seed=3,
    code_version="0",
)
CAPTIONS = "WEBVTT\n\n00:00.000 --> 00:02.000\nit begins\n\n00:02.500 --> 00:09.000\nit goes on\n"
CLIPS: dict[tuple[Split, str], Clip] = {
    ("train", "a.mp4"): Clip(duration_s=8.0, flash_s=(1.0, 3.0)),
    ("train", "b.mp4"): Clip(duration_s=8.0, width_px=96),
    ("validation", "a.mp4"): Clip(duration_s=4.0, flash_s=(1.0,)),
    ("test", "a.mp4"): Clip(duration_s=8.0, flash_s=(2.0, 6.0)),
    ("test", "b.mp4"): Clip(duration_s=4.0, width_px=96),
    ("test", "silent.mp4"): Clip(duration_s=4.0, audio=False),
    ("test", "sound only.wav"): Clip(duration_s=4.0, video=False),
}


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; of the test clips one is silent and one is a sound without picture or words."""
    folder = tmp_path_factory.mktemp("corpus")
    entries = [ManifestEntry("known", "gone.mp4", "train", "failed", reason="HTTP 404")]
    for (split, name), clip in CLIPS.items():
        path = f"known/{split}/{name}"
        write_clip(folder / "download" / path, clip)
        captions: dict[str, Any] = {}
        (folder / f"download/{path}.vtt").write_text(CAPTIONS, encoding="utf-8")
        if clip.video:
            captions = {"captions_path": f"{path}.vtt"}
        letter = (Annotation("letter", "a" if name == "a.mp4" else "b"),)
        entry = ManifestEntry(
            "known", f"{split}/{name}", split, path=path, annotations=letter, **captions
        )
        entries.append(entry)
    write_manifest(folder / "download", entries)
    (folder / "preprocess").mkdir()
    write_corpus(folder / "download", folder / "preprocess", PREPROCESS, num_workers=1)
    return folder / "preprocess"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_corpus: Path) -> Path:
    """The current folder, as it is when `evaluate` starts."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_corpus, "data/preprocess")
    pass_validation()
    row = {"step": 1, "loss": 2.0, "loss_va": 1.0, "loss_vt": 1.0}
    curve = json.dumps({**row, "learning_rate": 0.1, "gradient_norm": 1.0}) + "\n"
    Path("metrics/pretrain_curve.jsonl").write_text(curve, encoding="utf-8")
    export(EXPORTED)
    return tmp_path


def run_evaluate(params: EvaluateParams = EVALUATE, launch: LaunchParams = LAUNCH) -> Any:
    """Run the stage evaluate in the current folder, and return its metrics."""
    return evaluate.main(RUN, params, launch)


def pass_validation() -> None:
    """Leave what `validate` leaves when the corpus of the current folder passes."""
    verdict = {"passed": True, "index_digest": digest_index(Path("data/preprocess"))}
    write_json(Path("metrics/validate.json"), {**verdict, "expectations": []})


def export(params: ExportedParams, noise: float = 0.01) -> None:
    """Write data/pretrain: an untrained network whose weights are shaken by `noise`."""
    tokenizer_path = Path("data/preprocess/tokenizer.model")
    vocab_size = Tokenizer(tokenizer_path).vocab_size
    params = params.model_copy(update={"vocab_size": vocab_size})
    model = build_untrained(params)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=noise)
    save_export(Path("data/pretrain"), model, params, tokenizer_path)


def sections(
    name: TaskName = "video", launch: LaunchParams = LAUNCH, **updates: Any
) -> dict[str, Any]:
    """Return what a stage of tasks takes; tasks are alike, but for the fusion that one needs."""
    fusion = "concatenation" if name == "audio_visual" else None
    task = LETTER.model_validate({**LETTER.model_dump(), "fusion": fusion, **updates})
    shared = {"run": RUN, "clip": EXPORTED.clip, "model": EXPORTED.model, "launch": launch}
    return {**shared, "finetune": Task(name, task)}


def change_index(column: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a column of the index, row by row, and let the corpus pass."""
    path = Path("data/preprocess/index.parquet")
    index = pq.read_table(path)
    position = index.schema.get_field_index(column)
    values = pa.array([change(row) for row in index.to_pylist()])
    pq.write_table(index.set_column(position, index.schema.field(column), values), path)
    pass_validation()


def list_checkpoints() -> dict[Path, int]:
    """Return the checkpoints of all runs with the times at which they were written."""
    return {path: path.stat().st_mtime_ns for path in Path(".cache").rglob("step-*")}


def run_module(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run `python -m` with the code of this tree in the current folder, and read what it prints."""
    command = [sys.executable, "-m", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


def copy_project() -> Path:
    """Return a copy of the current folder, below it."""
    shutil.copytree(".", "killed", ignore=shutil.ignore_patterns("killed"))
    return Path("killed").absolute()
