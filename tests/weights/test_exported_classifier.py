"""Exported classifiers: what is written comes back, and what does not fit is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

import vatt
from tests.model.networks import AUDIO_VISUAL, SPECTROGRAM, VIDEO
from tests.train.tasks import TASK
from vatt.core.errors import StageError
from vatt.model.classifier import Classifier, ClassifierParams, build_network
from vatt.model.spectrogram import LogMel
from vatt.model.towers import collect_weights
from vatt.weights.classifier import (
    ExportedClassifier,
    ExportedClassifierParams,
    export_classifier,
    save_classifier,
)

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


def build_exported(classifier: ClassifierParams) -> ExportedClassifier:
    torch.manual_seed(3)
    params = PARAMS.model_copy(update={"classifier": classifier})
    return ExportedClassifier(Classifier(classifier).eval(), params)


OF_80_BANDS = SPECTROGRAM.model_copy(update={"patch": (16, 5), "grid": (9, 16)})
"""150 frames of the paper's clip are 9 patches of 16, and 6 frames more."""


def test_80_bands_take_waveforms_and_their_spectrograms() -> None:
    exported = build_exported(OF_80_BANDS)
    assert exported.input_shapes == {"audio": (144, 80)}
    waveforms = torch.rand(2, 2, 153_600) * 2 - 1
    spectrograms = LogMel()(waveforms.flatten(0, 1)).unflatten(0, (2, 2))
    assert spectrograms.shape == (2, 2, 150, 80)
    expected = exported.classify(spectrograms[:, :, :144])
    assert expected.std(0).min() > 0
    torch.testing.assert_close(exported.classify(spectrograms), expected)
    torch.testing.assert_close(exported.classify(waveforms), expected)


@pytest.mark.parametrize("num_frames", [144, 159])
def test_frames_of_the_last_patch_are_free(num_frames: int) -> None:
    exported = build_exported(OF_80_BANDS)
    for num_samples in (1024 * num_frames - 1023, 1024 * num_frames):
        waveform = torch.rand(1, 1, num_samples) * 2 - 1
        spectrogram = LogMel()(waveform[0])[None]
        assert spectrogram.shape == (1, 1, num_frames, 80)
        torch.testing.assert_close(exported.classify(waveform), exported.classify(spectrogram))


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (torch.zeros(1, 2, 143, 80), "views: expected shape B x 144 x 80, got .2, 143, 80."),
        (torch.zeros(1, 2, 160, 80), "views: expected shape B x 144 x 80, got .2, 160, 80."),
        (torch.zeros(1, 2, 150, 64), "views: expected shape B x 144 x 80, got .2, 144, 64."),
        (torch.full((1, 2, 150, 80), -0.1), r"views: expected values in .0, 1., got .-0.1, -0.1."),
        (torch.full((1, 2, 150, 80), 1.1), r"views: expected values in .0, 1., got .1.1, 1.1."),
        (torch.full((1, 2, 150, 80), torch.nan), "views: expected values in .0, 1., got .nan"),
        (torch.zeros(1, 2, 150, 80).double(), "views: expected float32 in .0, 1."),
        (torch.zeros(1, 2, 143 * 1024), "waveforms of 146433 to 162816 samples, got 146432"),
        (torch.zeros(1, 2, 162_817), "waveforms of 146433 to 162816 samples, got 162817"),
        (torch.full((1, 2, 153_600), -1.1), r"views: expected values in .-1, 1., got .-1.1"),
        (torch.zeros(1, 0, 153_600), "views: expected shape B x 153600, got .0, 153600."),
    ],
)
def test_neither_a_spectrogram_nor_a_waveform(views: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_exported(OF_80_BANDS).classify(views)


def test_other_bands_take_no_waveforms() -> None:
    with pytest.raises(ValueError, match=r"views: expected shape B x 12 x 10, got .2, 12288."):
        build_exported(SPECTROGRAM).classify(torch.zeros(1, 2, 12 * 1024))


@pytest.mark.parametrize("kind", AUDIO_VISUAL)
def test_an_audio_visual_classifier_comes_back(tmp_path: Path, kind: str) -> None:
    params = PARAMS.model_copy(
        update={
            "classifier": AUDIO_VISUAL[kind],
            "label": "action",
            "classes": tuple("abcdefg"),
            "task_name": "audio_visual",
            "task": TASK,
            "initial_digest": "0123",
            "audio_stride": 2,
        }
    )
    torch.manual_seed(3)
    network = build_network(AUDIO_VISUAL[kind]).eval()
    export_classifier(tmp_path / "export", collect_weights(network), params)
    torch.manual_seed(8)
    loaded = vatt.load_classifier(tmp_path / "export")
    assert loaded.params == params
    assert loaded.input_shapes == {"video": (4, 16, 16, 3), "audio": (96,)}
    video, audio = draw_views(), torch.rand(2, 3, 96) * 2 - 1
    expected = network(video.flatten(0, 1), audio.flatten(0, 1)).unflatten(0, (2, 3)).mean(1)
    torch.testing.assert_close(loaded.classify(video, audio), expected)

    for views, message in (
        ((video,), "expected views of video and of audio, got 1 tensors"),
        ((video, audio[..., :95]), "audio views: expected shape B x 96"),
        ((video, audio[:, :2]), "as many clips, and views of each, of every modality"),
    ):
        with pytest.raises(ValueError, match=message):
            loaded.classify(*views)


def test_weights_of_other_names_are_not_exported(tmp_path: Path) -> None:
    weights = collect_weights(Classifier(VIDEO))
    del weights["head.bias"]
    with pytest.raises(KeyError, match=r"names differ: \['head.bias'\]"):
        export_classifier(tmp_path / "export", weights, PARAMS)
    assert not (tmp_path / "export").exists()


def test_classes_must_be_those_of_the_network(export_dir: Path) -> None:
    file = export_dir / "params.yaml"
    content = yaml.safe_load(file.read_text()) | {"classes": ["a", "b"]}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(StageError, match="2 classes for a network of 7"):
        vatt.load_classifier(export_dir)
