"""The analyses through the stage: of a shared encoder, without words, switched off."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.download.made_files import read_tree
from tests.stages.conftest import EVALUATE, EXPORTED, export, run_evaluate
from tests.stages.test_any_model import import_original
from tests.stages.test_evaluate import write_classifier
from vatt.evaluate import analyses
from vatt.params import TowerSize

FIGURES = Path("data/evaluate/figures")
RETRIEVAL = EVALUATE.model_copy(update={"lrc_steps": 0, "probe_tasks": (), "analyses": True})


def read_numbers(name: str) -> pd.DataFrame:
    assert (FIGURES / f"{name}.svg").read_text().startswith("<svg")
    return pd.read_csv(FIGURES / f"{name}.csv")


def test_a_shared_encoder_shows_all_and_the_same_bytes_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four test clips have a picture and words; three of these and a fifth one have sound."""
    monkeypatch.setattr(analyses, "MIN_POINTS", 3)
    size = TowerSize(num_layers=2, width=16, mlp_width=32, num_heads=2, head_width=8)
    shared = {"shared_encoder": True, "text_style": "bert"}
    towers = dict.fromkeys(("video", "audio", "text"), size)
    model = EXPORTED.model.model_copy(update=shared | towers)
    export(EXPORTED.model_copy(update={"model": model}))
    write_classifier("video")
    run_evaluate(RETRIEVAL)
    classes = read_numbers("tsne_classes")
    assert classes.groupby("network").size().to_dict() == {
        "fine-tuned from random weights": 4,
        "from scratch": 4,
    }
    assert set(classes["class"]) == {"a", "b"}
    modalities = read_numbers("tsne_modalities")
    counts = modalities.groupby(["space", "modality"]).size().to_dict()
    for space in ("encoder input", "features (AGG)"):
        found = [counts[space, name] for name in ("video", "audio", "text")]
        assert found == [4, 4, 4]
    assert counts["video-audio space", "audio"] == counts["video-text space", "text"] == 4
    assert np.isfinite(modalities[["x", "y"]].to_numpy()).all()
    assert set(read_numbers("similarities")["direction"]) == {"text to video", "sound to video"}
    nodes = read_numbers("node_activations")
    assert [*nodes] == ["layer", "node", "video", "audio", "text"]
    assert nodes.groupby("layer").size().to_dict() == {1: 16, 2: 16}
    told = read_numbers("modality_classifier")
    assert told["chance"].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 2, 1 / 2])
    assert told["accuracy"].between(0, 1).all()
    page = Path("data/evaluate/report.html").read_text()
    for title in ("Analyses", "Activations of nodes", "modality-agnostic (MA)"):
        assert title in page
    outputs = read_tree(Path("data/evaluate"))
    shutil.rmtree(".cache/evaluate")
    run_evaluate(RETRIEVAL)
    assert read_tree(Path("data/evaluate")) == outputs


def test_without_words_nothing_is_said_of_text(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyses, "MIN_POINTS", 3)
    wordless = import_original("ms", Path("wordless"))
    run_evaluate(RETRIEVAL.model_copy(update={"model": str(wordless)}))
    modalities = read_numbers("tsne_modalities")
    assert set(modalities["modality"]) == {"video", "audio"}
    assert "video-text space" not in set(modalities["space"])
    assert set(read_numbers("similarities")["direction"]) == {"sound to video"}
    assert "video-text space" not in set(read_numbers("modality_classifier")["space"])
    # Each tower has its own encoder: their nodes have nothing in common.
    assert not (FIGURES / "node_activations.csv").exists()


def test_switched_off_nothing_of_it_is_made(project: Path) -> None:
    whole = run_evaluate(RETRIEVAL)
    num_files = len(list(Path(".cache/evaluate").glob("*.safetensors")))
    assert run_evaluate(RETRIEVAL.model_copy(update={"analyses": False})) == whole
    assert not list(FIGURES.glob("*.csv"))
    assert "<h2>Analyses</h2>" not in Path("data/evaluate/report.html").read_text()
    assert len(list(Path(".cache/evaluate").glob("*.safetensors"))) == num_files - 1
