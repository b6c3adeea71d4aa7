"""Trained models in use: embeddings and logits, and the inputs that would be misread."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vatt
from tests.model.networks import AUDIO_VISUAL, SPECTROGRAM, VIDEO
from tests.train.tasks import TASK
from tests.weights.test_export import CLASSIFIER, PARAMS, make_inputs
from vatt.corpus.tokenizer import Tokenizer, train_tokenizer
from vatt.model.classifier import Classifier, ClassifierParams
from vatt.model.stem import LogMel
from vatt.weights.export import build_untrained, save_export
from vatt.weights.inference import Exported, ExportedClassifier


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("tokenizer") / "model"
    train_tokenizer(path, [f"{a}{b} sings" for a in "abcdef" for b in "ghijkl"], 300)
    tokenizer = Tokenizer(path)
    params = PARAMS.model_copy(update={"vocab_size": tokenizer.vocab_size})
    return Exported(build_untrained(params), tokenizer, params)


def test_embeddings_of_a_clip_do_not_depend_on_the_batch(exported: Exported) -> None:
    video, audio, texts = make_inputs()
    for together, alone in (
        (exported.embed_video(video).vt, exported.embed_video(video[1:2]).vt),
        (exported.embed_audio(audio).va, exported.embed_audio(audio[1:2]).va),
        (exported.embed_text(texts), exported.embed_text(texts[1:2])),
    ):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda video: video * 255, r"\[-1, 1\], got"),
        (lambda video: video * float("nan"), r"\[-1, 1\], got"),
        (lambda video: video.double(), "float64"),
        (lambda video: (video * 127).to(torch.uint8), "uint8"),
        (lambda video: video[0], "B x 4 x 16 x 16 x 3"),
        (lambda video: video[:0], "B x 4 x 16 x 16 x 3"),
        (lambda video: video.permute(0, 4, 1, 2, 3), "B x 4 x 16 x 16 x 3"),
        (lambda video: video[:, :2], "B x 4 x 16 x 16 x 3"),
    ],
)
def test_a_video_that_the_model_would_misread_is_refused(
    exported: Exported, change: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        exported.embed_video(change(make_inputs()[0]))


def test_sound_and_text_are_checked_too(exported: Exported) -> None:
    cases: list[tuple[Callable[[Any], object], Any, type[Exception], str]] = [
        (exported.embed_audio, torch.zeros(2, 1000), ValueError, "audio: expected shape B x 2048"),
        (exported.embed_audio, torch.full((2, 2048), 3.0), ValueError, "audio: expected values"),
        (exported.embed_audio, [0.0], TypeError, "audio: expected a torch tensor, got list"),
        (exported.embed_text, "a sentence", TypeError, "one string"),
        (exported.embed_text, ["good", "  "], ValueError, r"none at \[1\]"),
        (exported.embed_text, [], ValueError, "empty list"),
        (exported.embed_text, ["good", None], TypeError, "got None at 1"),
    ]
    for embed, inputs, error, message in cases:
        with pytest.raises(error, match=message):
            embed(inputs)


def build_classifier(classifier: ClassifierParams) -> ExportedClassifier:
    torch.manual_seed(3)
    params = CLASSIFIER.model_copy(update={"classifier": classifier})
    return ExportedClassifier(Classifier(classifier).eval(), params)


def draw_views() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 3, 4, 16, 16, 3) * 2 - 1


def test_logits_are_averaged_over_views() -> None:
    classifier, views = build_classifier(VIDEO), draw_views()
    each = torch.stack([classifier.classify(views[:, index, None]) for index in range(3)])
    torch.testing.assert_close(classifier.classify(views), each.mean(0), rtol=1e-4, atol=1e-5)


OF_80 = SPECTROGRAM.model_copy(update={"patch": (16, 5), "grid": (9, 16)})
"""150 frames of the paper's clip are 9 patches of 16, and 6 frames more."""


def test_80_bands_take_waveforms_and_their_spectrograms() -> None:
    exported = build_classifier(OF_80)
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
    exported = build_classifier(OF_80)
    for num_samples in (1024 * num_frames - 1023, 1024 * num_frames):
        waveform = torch.rand(1, 1, num_samples) * 2 - 1
        spectrogram = LogMel()(waveform[0])[None]
        assert spectrogram.shape == (1, 1, num_frames, 80)
        torch.testing.assert_close(exported.classify(waveform), exported.classify(spectrogram))


@pytest.mark.parametrize(
    ("classifier", "views", "message"),
    [
        (OF_80, torch.zeros(1, 2, 143, 80), "shape B x 144 x 80, got .2, 143, 80."),
        (OF_80, torch.zeros(1, 2, 160, 80), "shape B x 144 x 80, got .2, 160, 80."),
        (OF_80, torch.zeros(1, 2, 150, 64), "shape B x 144 x 80, got .2, 144, 64."),
        (OF_80, torch.full((1, 2, 150, 80), -0.1), r"values in .0, 1., got .-0.1, -0.1."),
        (OF_80, torch.full((1, 2, 150, 80), 1.1), r"values in .0, 1., got .1.1, 1.1."),
        (OF_80, torch.full((1, 2, 150, 80), torch.nan), "values in .0, 1., got .nan"),
        (OF_80, torch.zeros(1, 2, 150, 80).double(), "float32 in .0, 1."),
        (OF_80, torch.zeros(1, 2, 143 * 1024), "waveforms of 146433 to 162816 .*, got 146432"),
        (OF_80, torch.zeros(1, 2, 162_817), "waveforms of 146433 to 162816 samples, got 162817"),
        (OF_80, torch.full((1, 2, 153_600), -1.1), r"values in .-1, 1., got .-1.1"),
        (OF_80, torch.zeros(1, 0, 153_600), "shape B x 153600, got .0, 153600."),
        (SPECTROGRAM, torch.zeros(1, 2, 12 * 1024), "shape B x 12 x 10, got .2, 12288."),
        (VIDEO, draw_views()[:, 0], "shape B x 4 x 16 x 16 x 3"),
        (VIDEO, draw_views()[:0], "shape"),
        (VIDEO, draw_views() * 255, r"values in \[-1, 1\]"),
        (VIDEO, draw_views().double(), "float32"),
    ],
)
def test_views_that_the_model_would_misread_are_refused(
    classifier: ClassifierParams, views: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=f"views: expected {message}"):
        build_classifier(classifier).classify(views)


@pytest.mark.parametrize("kind", AUDIO_VISUAL)
def test_an_audio_visual_classifier_comes_back(tmp_path: Path, kind: str) -> None:
    trained = {"label": "action", "classes": tuple("abcdefg"), "task_name": "audio_visual"}
    started = {"task": TASK, "initial_digest": "0123", "audio_stride": 2}
    kinds = {"classifier": AUDIO_VISUAL[kind]}
    params = CLASSIFIER.model_copy(update=kinds | trained | started)
    network = build_untrained(params)
    save_export(tmp_path / "export", network, params)
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
