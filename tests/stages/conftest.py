"""A small corpus with an untrained export, in folders as the stages leave them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS as PREPROCESS
from tests.tiny import TINY_MODEL
from vatt.core.files import write_json
from vatt.corpus.manifest import Annotation, ManifestEntry, Split, write_manifest
from vatt.corpus.tokenizer import Tokenizer
from vatt.params import ClipParams, EvaluateParams
from vatt.preprocess.corpus import write_corpus
from vatt.weights.export import ExportedParams, build_untrained, save_export

EVALUATE = EvaluateParams(num_windows=2, batch_size=3, lrc_steps=20, probe_tasks=None)
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
CLIPS: dict[str, Clip] = {
    "train/a.mp4": Clip(duration_s=8.0, flash_s=(1.0, 3.0)),
    "train/b.mp4": Clip(duration_s=8.0, width_px=96),
    "validation/a.mp4": Clip(duration_s=4.0, flash_s=(1.0,)),
    "test/a.mp4": Clip(duration_s=8.0, flash_s=(2.0, 6.0)),
    "test/b.mp4": Clip(duration_s=4.0, width_px=96),
    "test/silent.mp4": Clip(duration_s=4.0, audio=False),
    "test/sound only.wav": Clip(duration_s=4.0, video=False),
}


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; of the test clips one is silent and one is a sound without picture or words."""
    folder = tmp_path_factory.mktemp("corpus")
    entries = []
    for name, clip in CLIPS.items():
        write_clip(folder / "download" / "known" / name, clip)
        split: Split = name.split("/")[0]  # type: ignore[assignment]
        told = clip.video
        captions_path = f"known/{name}.vtt"
        (folder / "download" / captions_path).write_text(CAPTIONS, encoding="utf-8")
        entries.append(
            ManifestEntry(
                source="known",
                video_id=name,
                split=split,
                path=f"known/{name}",
                captions_path=captions_path if told else None,
                captions_format="vtt" if told else None,
                annotations=(Annotation("letter", "a" if "/a" in name else "b"),),
            )
        )
    entries.append(ManifestEntry("known", "gone.mp4", "train", "failed", reason="HTTP 404"))
    write_manifest(folder / "download", entries)
    (folder / "preprocess").mkdir()
    write_corpus(folder / "download", folder / "preprocess", PREPROCESS, num_workers=1)
    return folder / "preprocess"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_corpus: Path) -> Path:
    """The current folder, as it is when `evaluate` starts."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_corpus, "data/preprocess")
    write_json(Path("metrics/validate.json"), {"passed": True, "expectations": []})
    row = {"step": 1, "loss": 2.0, "loss_va": 1.0, "loss_vt": 1.0}
    curve = json.dumps({**row, "learning_rate": 0.1, "gradient_norm": 1.0}) + "\n"
    Path("metrics/pretrain_curve.jsonl").write_text(curve, encoding="utf-8")
    export(EXPORTED)
    return tmp_path


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
