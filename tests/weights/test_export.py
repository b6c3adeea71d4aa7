"""Exports of both kinds: what is written comes back, and what does not fit is refused by name."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from torch import nn

import vatt
from tests.model.networks import AUDIO_VISUAL, SPECTROGRAM, VIDEO
from tests.model.original import AGNOSTIC, MODEL
from tests.tiny import TINY_MODEL
from vatt.core.errors import StageError
from vatt.corpus.tokenizer import Tokenizer, train_tokenizer
from vatt.model.classifier import AudioVisualClassifier, Classifier
from vatt.model.towers import collect_weights
from vatt.model.vatt import Vatt
from vatt.params import ClipParams
from vatt.weights.export import (
    ExportedClassifierParams,
    ExportedParams,
    build_untrained,
    save_export,
)
from vatt.weights.inference import Exported, ExportedClassifier

CLIP = ClipParams(num_frames=4, frame_size_px=16, num_samples=2048, num_tokens=8, num_candidates=2)
PARAMS = ExportedParams(
    clip=CLIP, model=TINY_MODEL, frame_rate_hz=5, vocab_size=300, seed=7, code_version="0.0.0"
)
CLASSIFIER = ExportedClassifierParams(classifier=VIDEO, frame_rate_hz=12.5, code_version="0.0.0")


class Folder(NamedTuple):
    """An export and the function that loads its kind."""

    path: Path
    load: Callable[[Path], Exported | ExportedClassifier]

    def read_files(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.path.iterdir()}

    def change_params(self, section: str | None, key: str, value: object) -> None:
        file = self.path / "params.yaml"
        content = yaml.safe_load(file.read_text())
        (content[section] if section else content)[key] = value
        file.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "any name"
    words = [f"{a}{b} {c}" for a in "abcdef" for b in "ghijkl" for c in ("sings", "falls", "turns")]
    train_tokenizer(path, words, PARAMS.vocab_size)
    return path


@pytest.fixture
def params(tokenizer_path: Path) -> ExportedParams:
    return PARAMS.model_copy(update={"vocab_size": Tokenizer(tokenizer_path).vocab_size})


def export(path: Path, params: ExportedParams, tokenizer_path: Path | None = None) -> Vatt:
    """Write a network whose weights and BatchNorm statistics differ from the first ones."""
    model = build_untrained(params)
    generator = torch.Generator().manual_seed(9)
    for value in collect_weights(model).values():
        value.detach().add_(torch.rand(value.shape, generator=generator) * 0.02)
    save_export(path, model, params, tokenizer_path)
    return model


@pytest.fixture
def pretrained(tmp_path: Path, tokenizer_path: Path, params: ExportedParams) -> Folder:
    export(tmp_path / "export", params, tokenizer_path)
    return Folder(tmp_path / "export", vatt.load)


@pytest.fixture
def classifier(tmp_path: Path) -> Folder:
    save_export(tmp_path / "classifier", build_untrained(CLASSIFIER), CLASSIFIER)
    return Folder(tmp_path / "classifier", vatt.load_classifier)


@pytest.fixture(params=["pretrained", "classifier"])
def folder(request: pytest.FixtureRequest) -> Folder:
    found: Folder = request.getfixturevalue(request.param)
    return found


def test_it_comes_back_bit_for_bit(tmp_path: Path, folder: Folder, tokenizer_path: Path) -> None:
    torch.manual_seed(1)
    exported = folder.load(folder.path)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)  # the caller's random numbers are left alone
    again = Folder(tmp_path / "again", folder.load)
    save_export(again.path, exported.model, exported.params, folder.path / "tokenizer.model")
    files = folder.read_files()
    assert files == again.read_files()
    assert files.pop("tokenizer.model", None) == (
        tokenizer_path.read_bytes() if isinstance(exported, Exported) else None
    )
    assert set(files) == {"model.safetensors", "params.yaml"}


def make_inputs() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    torch.manual_seed(0)
    video, audio = torch.rand(3, 4, 16, 16, 3) * 2 - 1, torch.rand(3, 2048) * 2 - 1
    return video, audio, ["ag sings", "Bh falls", "nothing known 🙂"]


USE = """
import sys, torch, vatt
from tests.weights.test_export import make_inputs

exported = vatt.load(sys.argv[1])
video, audio, texts = make_inputs()
parts = [*exported.embed_video(video), *exported.embed_audio(audio), exported.embed_text(texts)]
torch.save([part.clone() for part in parts], sys.argv[2])
"""


def test_another_process_computes_the_same_embeddings(tmp_path: Path, pretrained: Folder) -> None:
    subprocess.run([sys.executable, "-c", USE, pretrained.path, tmp_path / "there"], check=True)
    there = torch.load(tmp_path / "there", weights_only=True)
    exported = vatt.load(pretrained.path)
    video, audio, texts = make_inputs()
    seen, heard = exported.embed_video(video), exported.embed_audio(audio)
    here = [*seen, *heard, exported.embed_text(texts)]
    assert [part.shape[1] for part in here] == [128, 24, 12, 128, 24, 12]
    for mine, theirs in zip(here, there, strict=True):
        assert len(mine) == 3
        assert torch.isfinite(mine).all()
        torch.testing.assert_close(mine, theirs)
    assert torch.equal(exported.embed_video(video).features, seen.features)  # no DropToken


def test_the_untrained_network_is_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = build_untrained(PARAMS)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)  # the caller's random numbers are left alone
    second = build_untrained(PARAMS)
    other = build_untrained(PARAMS.model_copy(update={"seed": 8}))
    numbers = [[*model.parameters()] for model in (first, second, other)]
    assert all(map(torch.equal, numbers[0], numbers[1]))
    assert not all(map(torch.equal, numbers[0], numbers[2]))


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "foreign"])
def test_damage_is_refused_and_the_file_is_named(folder: Folder, damage: str) -> None:
    for name, content in folder.read_files().items():
        cut = content[: len(content) // 3]
        (folder.path / name).unlink()
        if damage != "absent":
            damaged = {"empty": b"", "cut": cut, "foreign": b"\x00{]\xff"}[damage]
            (folder.path / name).write_bytes(damaged)
        with pytest.raises(StageError, match=name.replace(".", r"\.")):
            folder.load(folder.path)
        (folder.path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "section", "key", "value", "message"),
    [
        ("pretrained", "model", "space_vt_width", 13, r"text_projection.* is torch.float32 \(12"),
        ("pretrained", "model", "video", "base", r"the model of params.yaml, 179 tensors do not"),
        ("pretrained", "model", "video", "huge", "params.yaml"),
        ("pretrained", "clip", "num_samples", 4096, "audio"),
        ("pretrained", "clip", "unknown", 1, "unknown"),
        ("pretrained", None, "vocab_size", 9, r"tokenizer.model: has \d+ pieces, .*vocab_size: 9"),
        ("classifier", "classifier", "num_classes", 8, "head"),
        ("classifier", "classifier", "grid", [2, 4], "input = video has 3 axes"),
        ("classifier", "classifier", "more", 1, "more"),
        ("classifier", None, "classes", ["a", "b"], "2 classes for a network of 7"),
    ],
)
def test_params_of_another_model_are_refused(
    request: pytest.FixtureRequest,
    kind: str,
    section: str | None,
    key: str,
    value: object,
    message: str,
) -> None:
    folder: Folder = request.getfixturevalue(kind)
    folder.change_params(section, key, value)
    with pytest.raises(StageError, match=message):
        folder.load(folder.path)


def test_other_kinds_are_refused(tmp_path: Path, pretrained: Folder, classifier: Folder) -> None:
    for load, path, message in (
        (classifier.load, pretrained.path, r"is not a classifier: load it with vatt\.load"),
        (pretrained.load, classifier.path, r"is a classifier: load it with vatt\.load_classifier"),
        (vatt.load, tmp_path, r"has no model\.safetensors, params\.yaml"),
        (vatt.load, tmp_path / "nowhere", "nowhere"),
    ):
        with pytest.raises(StageError, match=message):
            load(path)


def test_a_failed_export_leaves_the_old_one(
    tmp_path: Path, pretrained: Folder, params: ExportedParams
) -> None:
    before = pretrained.read_files()
    with pytest.raises(FileNotFoundError):
        save_export(pretrained.path, build_untrained(params), params, tmp_path / "no tokenizer")
    assert pretrained.read_files() == before


def test_importing_vatt_does_not_import_torch() -> None:
    code = "import sys, vatt; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
MODALITY = r"(?:video|audio|text|tower|fusion)"


def documented_names() -> list[str]:
    """Return the names of the first column as regular expressions."""
    names: list[str] = []
    page = PAGE.read_text(encoding="utf-8")
    for line in page.partition("## Names and shapes")[2].partition("## ")[0].splitlines():
        cell = line.split("|")[1] if line.startswith("| `") else ""
        for name in re.findall(r"`([^`]+)`", cell):
            whole = names[-1].rpartition(".")[0] + name if name.startswith(".") else name
            names.append(whole)
    patterns = [re.escape(name).replace(r"\.N\.", r"\.\d+\.") for name in names]
    return [re.sub("<(modality|signal)>", MODALITY, pattern) for pattern in patterns]


def test_every_tensor_is_documented_and_every_documented_tensor_exists() -> None:
    bert = MODEL.model_copy(update={"text_style": "bert"})
    with torch.device("meta"):
        models: list[nn.Module] = [
            *(Vatt(params, CLIP, 50) for params in (MODEL, AGNOSTIC, bert)),
            *(Classifier(params) for params in (VIDEO, SPECTROGRAM)),
            *(AudioVisualClassifier(params) for params in AUDIO_VISUAL.values()),
        ]
    names = {name for model in models for name in collect_weights(model)}
    patterns = documented_names()
    assert len(patterns) > 40
    matches = {known: {name for name in names if re.fullmatch(known, name)} for known in patterns}
    assert names - set().union(*matches.values()) == set()
    assert [known for known, found in matches.items() if not found] == []
