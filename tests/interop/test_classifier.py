"""Exported classifiers: what is written comes back, and what does not fit is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

import vatt
from tests.models.test_parity_classifier import VIDEO
from vatt.interop.classifier import ExportedClassifierParams, save_classifier
from vatt.models.classifier import Classifier
from vatt.params import StageError

PARAMS = ExportedClassifierParams(classifier=VIDEO, frame_rate_hz=12.5, code_version="0.0.0")


@pytest.fixture
def export_dir(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    save_classifier(tmp_path / "export", Classifier(VIDEO), PARAMS)
    return tmp_path / "export"


def draw_views() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 3, 4, 16, 16, 3) * 2 - 1


def test_a_classifier_comes_back_bit_for_bit(tmp_path: Path, export_dir: Path) -> None:
    torch.manual_seed(1)
    loaded = vatt.load_classifier(export_dir)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)  # the caller's random numbers are left alone
    save_classifier(tmp_path / "again", loaded.model, loaded.params)
    first = {file.name: file.read_bytes() for file in export_dir.iterdir()}
    assert first == {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    assert set(first) == {"model.safetensors", "params.yaml"}

    views = draw_views()
    each = torch.stack([loaded.classify(views[:, index, None]) for index in range(3)])
    torch.testing.assert_close(loaded.classify(views), each.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda views: views[:, 0], "views: expected shape B x 4 x 16 x 16 x 3"),
        (lambda views: views[:0], "views: expected shape"),
        (lambda views: views * 255, r"views: expected values in \[-1, 1\]"),
        (lambda views: views.double(), "views: expected float32"),
    ],
)
def test_views_that_the_model_would_misread_are_refused(
    export_dir: Path, change: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        vatt.load_classifier(export_dir).classify(change(draw_views()))


@pytest.mark.parametrize("name", ["model.safetensors", "params.yaml"])
@pytest.mark.parametrize("content", [None, b"", b"\x00{]\xff"])
def test_damage_is_refused_and_the_file_is_named(
    export_dir: Path, name: str, content: bytes | None
) -> None:
    file = export_dir / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StageError, match=name.replace(".", r"\.")):
        vatt.load_classifier(export_dir)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("num_classes", 8, "head"), ("grid", [2, 4], "input = video has 3 axes"), ("more", 1, "more")],
)
def test_params_of_another_classifier_are_refused(
    export_dir: Path, key: str, value: object, message: str
) -> None:
    file = export_dir / "params.yaml"
    content = yaml.safe_load(file.read_text())
    content["classifier"][key] = value
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(StageError, match=message):
        vatt.load_classifier(export_dir)


def test_a_model_for_pretraining_is_no_classifier(export_dir: Path) -> None:
    file = export_dir / "params.yaml"
    file.write_text("model: {}\n")
    with pytest.raises(StageError, match=r"is not a classifier: load it with vatt\.load"):
        vatt.load_classifier(export_dir)
