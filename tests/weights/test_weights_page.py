"""The table in docs/weights.md names every tensor of every kind of model, and no other."""

import re
from pathlib import Path

import torch
from torch import nn

from tests.model.networks import AUDIO_VISUAL, SPECTROGRAM, VIDEO
from tests.model.original import AGNOSTIC, CLIP, MODEL
from vatt.model.classifier import AudioVisualClassifier, Classifier
from vatt.model.towers import collect_weights
from vatt.model.vatt import Vatt

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
MODALITY = r"(?:video|audio|text|tower|fusion)"


def documented_names() -> list[str]:
    """Return the names of the first column as regular expressions."""
    names: list[str] = []
    section = (
        PAGE.read_text(encoding="utf-8").partition("## Names and shapes")[2].partition("## ")[0]
    )
    for line in section.splitlines():
        cell = line.split("|")[1] if line.startswith("| `") else ""
        for name in re.findall(r"`([^`]+)`", cell):
            whole = names[-1].rpartition(".")[0] + name if name.startswith(".") else name
            names.append(whole)
    patterns = [re.escape(name).replace(r"\.N\.", r"\.\d+\.") for name in names]
    return [re.sub("<(modality|signal)>", MODALITY, pattern) for pattern in patterns]


def build_models() -> list[nn.Module]:
    with torch.device("meta"):
        bert = MODEL.model_copy(update={"text_style": "bert"})
        return [
            *(Vatt(params, CLIP, 50) for params in (MODEL, AGNOSTIC, bert)),
            *(Classifier(params) for params in (VIDEO, SPECTROGRAM)),
            *(AudioVisualClassifier(params) for params in AUDIO_VISUAL.values()),
        ]


def test_every_tensor_is_documented_and_every_documented_tensor_exists() -> None:
    names = {name for model in build_models() for name in collect_weights(model)}
    patterns = documented_names()
    assert len(patterns) > 40
    matches = {known: {name for name in names if re.fullmatch(known, name)} for known in patterns}
    assert names - set().union(*matches.values()) == set()
    assert [known for known, found in matches.items() if not found] == []
