"""Classifiers against the original TensorFlow implementation: logits, their means, losses."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.model.networks import SPECTROGRAM, VIDEO, WAVEFORM
from tests.model.original import Original
from vatt.model.classifier import Classifier, ClassifierParams
from vatt.model.losses import balanced_sigmoid_loss, softmax_loss
from vatt.model.stem import LogMel
from vatt.weights.original import state_from_original

TOLERANCE = 5e-6
PARAMS = {"cls_vit": VIDEO, "cls_wat": WAVEFORM, "cls_spt": SPECTROGRAM}


def read_signal(original: Original) -> Tensor:
    """Six clips as our classifiers take them: sound has no axis for its one channel."""
    if "in::images" in original.numbers:
        return original.tensor("in::images")
    return original.tensor("in::audio").squeeze(-1)


def build_classifier(original: Original, params: ClassifierParams) -> Classifier:
    model = Classifier(params)
    model.load_state_dict(state_from_original(model.state_dict(), original.group("w::")))
    return model


@pytest.mark.parametrize("name", PARAMS)
def test_logits_and_losses(name: str) -> None:
    original = Original(name)
    model = build_classifier(original, PARAMS[name]).train()
    logits = model(read_signal(original))
    assert_close(logits, original.tensor("train:/logits"), rtol=0, atol=TOLERANCE)

    labels = original.tensor("in::one_hot")
    is_video = PARAMS[name].input == "video"
    loss = softmax_loss(logits, labels, 0.0) if is_video else balanced_sigmoid_loss(logits, labels)
    assert_close(loss, original.tensor("train::total_loss"), rtol=0, atol=TOLERANCE)

    rates = logits.softmax(-1) if is_video else logits.sigmoid()
    expected = original.tensor("train:/probabilities")
    assert_close(rates, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", PARAMS)
def test_logits_are_averaged_over_the_views_of_a_clip(name: str) -> None:
    original = Original(name)
    model = build_classifier(original, PARAMS[name]).eval()
    logits = model.average_views(read_signal(original).unflatten(0, (2, 3)))
    assert_close(logits, original.tensor("eval:/logits"), rtol=0, atol=TOLERANCE)


def test_a_waveform_is_as_good_as_its_spectrogram() -> None:
    torch.manual_seed(0)
    params = SPECTROGRAM.model_copy(update={"patch": (2, 5), "grid": (3, 16)})
    model = Classifier(params).eval()
    waveform = torch.rand(2, 6 * 1024) * 2 - 1
    assert_close(model(waveform), model(LogMel()(waveform)))


def test_dropout_of_the_head_spares_evaluation() -> None:
    torch.manual_seed(0)
    original = Original("cls_vit")
    model = build_classifier(original, VIDEO.model_copy(update={"head_dropout_rate": 0.5}))
    signal, expected = read_signal(original), original.tensor("train:/logits")
    assert_close(model.eval()(signal), expected, rtol=0, atol=TOLERANCE)
    model.train()
    draws = torch.stack([model(signal).detach() for _ in range(400)])
    assert (draws.std(0) > 0).all()
    # Kept features are scaled, so that the mean is what evaluation gives.
    error = (draws.mean(0) - expected).abs() / (draws.std(0) / math.sqrt(len(draws)))
    assert error.max() < 5


@pytest.mark.parametrize(("params", "bias"), [(VIDEO, 0.0), (WAVEFORM, -math.log(526))])
def test_training_begins_where_the_paper_does(params: ClassifierParams, bias: float) -> None:
    torch.manual_seed(0)
    model = Classifier(params.model_copy(update={"num_classes": 527}))
    np.testing.assert_allclose(model.head.bias.detach().numpy(), bias, rtol=1e-6)
    weight = model.head.weight.detach()
    limit = math.sqrt(6 / (32 + 527))  # of the uniform distribution of Glorot
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (32 + 527)), rel=0.03)
    assert (weight.abs().max() > limit) == (params is VIDEO)


def test_axes_must_fit_the_input() -> None:
    with pytest.raises(ValueError, match=r"input = waveform has 1 axes, patch = .2, 4, 4."):
        ClassifierParams.model_validate(VIDEO.model_dump() | {"input": "waveform"})
