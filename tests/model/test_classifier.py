"""Classifiers against the original and its numbers, fusions against slow loops, refusals."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from tests.model.networks import AUDIO_VISUAL, SPECTROGRAM, VIDEO, WAVEFORM
from tests.model.original import Original
from tests.train.tasks import TASK
from vatt.model.classifier import (
    AudioVisualClassifier,
    AudioVisualParams,
    Classifier,
    ClassifierParams,
    CompactBilinear,
    Concatenation,
    CountSketch,
    FusionParams,
    Kind,
    MidFusion,
    TensorFusion,
    apply_rates,
    build_fusion,
    build_network,
    list_towers,
)
from vatt.model.losses import balanced_sigmoid_loss, softmax_loss
from vatt.model.stem import DropToken, LogMel
from vatt.model.transformer import Dropout, Encoder
from vatt.params import TowerSize
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


FUSION_SIZE = TowerSize(num_layers=1, width=8, mlp_width=12, num_heads=2, head_width=4)


def draw_tokens(num_clips: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(num_clips, 4, 5, generator=generator),
        torch.randn(num_clips, 2, 7, generator=generator),
    )


def test_concatenation_reads_the_agg_tokens() -> None:
    video, audio = draw_tokens()
    fusion = Concatenation(5, 7)
    fused = fusion(video, audio)
    assert fusion.width == fused.shape[1] == 12
    for clip in range(3):
        assert fused[clip].tolist() == [*video[clip, 0].tolist(), *audio[clip, 0].tolist()]


def test_tensor_fusion_is_the_outer_product_of_features_with_a_one() -> None:
    torch.manual_seed(0)
    video, audio = draw_tokens()
    fusion = TensorFusion(5, 7, 3)
    fused = fusion(video, audio)
    assert fusion.width == fused.shape[1] == 16
    for clip in range(3):
        seen = [1.0, *map(math.tanh, fusion.video(video[clip, :1])[0].tolist())]
        heard = [1.0, *map(math.tanh, fusion.audio(audio[clip, :1])[0].tolist())]
        expected = [left * right for left in seen for right in heard]
        assert fused[clip].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_count_sketch_adds_every_number_in_its_place_with_its_sign() -> None:
    torch.manual_seed(0)
    sketch = CountSketch(50, 6)
    feature = torch.randn(2, 50)
    expected = [[0.0] * 6 for _ in range(2)]
    for clip in range(2):
        for index in range(50):
            sign, place = int(sketch.signs[index]), int(sketch.places[index])
            assert abs(sign) == 1
            assert 0 <= place < 6
            expected[clip][place] += sign * float(feature[clip, index])
    torch.testing.assert_close(sketch(feature), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert len(set(sketch.places.tolist())) == 6
    assert len(set(sketch.signs.tolist())) == 2


@pytest.mark.parametrize("width", [6, 7])
def test_compact_bilinear_pooling_is_the_count_sketch_of_the_outer_product(width: int) -> None:
    torch.manual_seed(0)
    video, audio = draw_tokens()
    fusion = CompactBilinear(5, 7, width)
    pooled = fusion.pool(video[:, 0], audio[:, 0])
    fused = fusion(video, audio)
    for clip in range(3):
        expected = [0.0] * width
        for left in range(5):
            for right in range(7):
                place = int(fusion.video.places[left] + fusion.audio.places[right]) % width
                sign = int(fusion.video.signs[left] * fusion.audio.signs[right])
                expected[place] += sign * float(video[clip, 0, left] * audio[clip, 0, right])
        assert pooled[clip].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        roots = [math.copysign(math.sqrt(abs(value)), value) for value in expected]
        scale = math.sqrt(sum(root**2 for root in roots) / width)
        assert fused[clip].tolist() == pytest.approx(
            [root / scale for root in roots], rel=1e-2, abs=1e-2
        )


def test_bilinear_products_of_two_clips_are_those_of_their_features_on_the_mean() -> None:
    """<sketch(x (x) y), sketch(x' (x) y')> has the mean <x, x'> <y, y'> over the draws."""
    torch.manual_seed(0)
    video, audio = draw_tokens(2)
    seen, heard = video[:, 0], audio[:, 0]
    products = []
    for _ in range(500):
        pooled = CompactBilinear(5, 7, 32).pool(seen, heard)
        products.append(float(pooled[0] @ pooled[1]))
    found = torch.tensor(products)
    expected = float(seen[0] @ seen[1]) * float(heard[0] @ heard[1])
    error = (found.mean() - expected) / (found.std() / math.sqrt(len(products)))
    assert abs(error) < 4


def test_bilinear_pooling_of_nothing_has_finite_gradients() -> None:
    torch.manual_seed(0)
    video, audio = (torch.zeros(2, 1, width, requires_grad=True) for width in (5, 7))
    fused = CompactBilinear(5, 7, 6)(video, audio)
    assert fused.abs().max() == 0
    gradients = torch.autograd.grad(fused.sum(), (video, audio))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_mid_fusion_sees_every_token_and_not_their_order() -> None:
    """Positions come from the towers: behind them the tokens of a modality are a set."""
    torch.manual_seed(0)
    video, audio = draw_tokens()
    fusion = MidFusion(5, 7, FUSION_SIZE, 0.0).eval()
    with torch.no_grad():
        fusion.audio.bias.add_(0.5)
    fused = fusion(video, audio)
    assert fused.shape == (3, 8)
    torch.testing.assert_close(fusion(video.flip(1), audio), fused)
    for tokens in (video, audio):
        for index in range(tokens.shape[1]):
            tokens[:, index] += 1.0
            assert (fusion(video, audio) - fused).abs().amax(1).min() > 1e-4
            tokens[:, index] -= 1.0
    # A clip is fused by itself.
    torch.testing.assert_close(fusion(video[:1], audio[:1]), fused[:1])


@pytest.mark.parametrize("kind", ["concatenation", "tensor", "bilinear", "attention"])
def test_all_but_concatenation_learn_whether_both_are_the_same(kind: Kind) -> None:
    """The sign of a product is no sum of what is seen and of what is heard."""
    torch.manual_seed(0)
    params = FusionParams(kind=kind, width=16, size=FUSION_SIZE, dropout_rate=0.0)
    fusion = build_fusion(params, 4, 4)
    head = nn.Linear(fusion.width, 2)
    optimizer = torch.optim.Adam([*fusion.parameters(), *head.parameters()], lr=0.01)
    for _ in range(150):
        seen, heard = torch.randint(2, (2, 64))
        signals = (
            (2.0 * bits[:, None, None] - 1).expand(-1, 1, 4) + 0.1 * torch.randn(64, 1, 4)
            for bits in (seen, heard)
        )
        logits, labels = head(fusion(*signals)), (seen == heard).long()
        optimizer.zero_grad()
        functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    accuracy = float((logits.argmax(1) == labels).float().mean())
    assert (accuracy > 0.95) == (kind != "concatenation")


def draw_clips(num_clips: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(num_clips, 4, 16, 16, 3, generator=generator) * 2 - 1
    return video, torch.rand(num_clips, 96, generator=generator) * 2 - 1


def build(params: AudioVisualParams) -> AudioVisualClassifier:
    torch.manual_seed(1)
    network = build_network(params).eval()
    assert isinstance(network, AudioVisualClassifier)
    return network


def share_encoder(params: AudioVisualParams) -> AudioVisualParams:
    agnostic = {"post_projection_width": 24}
    towers = {
        name: tower.model_copy(update=agnostic) for name, tower in list_towers(params).items()
    }
    return params.model_copy(update={"shared_encoder": True, **towers})


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", AUDIO_VISUAL)
def test_logits_are_the_head_of_the_fused_towers(kind: str, shared: bool) -> None:
    """One pass through a shared encoder gives what two passes give."""
    params = AUDIO_VISUAL[kind]
    network = build(share_encoder(params) if shared else params)
    assert (network.video.encoder is network.audio.encoder) == shared
    video, audio = draw_clips()
    features = network.fusion(
        network.video(video, all_tokens=True), network.audio(audio, all_tokens=True)
    )
    expected = features @ network.head.weight.T + network.head.bias
    assert_close(network(video, audio), expected, rtol=1e-4, atol=1e-5)
    assert (network(video, audio.flip(0)) - expected).abs().max() > 1e-4


def test_logits_are_averaged_over_the_windows_of_a_clip() -> None:
    network = build(AUDIO_VISUAL["tensor"])
    video, audio = draw_clips(6)
    each = network(video, audio)
    averaged = network.average_views(video.unflatten(0, (2, 3)), audio.unflatten(0, (2, 3)))
    assert_close(averaged, torch.stack([each[:3].mean(0), each[3:].mean(0)]), rtol=1e-4, atol=1e-5)


OTHER_SIZE = VIDEO.size.model_copy(update={"num_layers": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": AUDIO_VISUAL["tensor"].video}, "towers of video and video: expected"),
        (
            {
                "shared_encoder": True,
                "audio": AUDIO_VISUAL["tensor"].audio.model_copy(update={"size": OTHER_SIZE}),
            },
            "both towers must have the same size",
        ),
    ],
)
def test_towers_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    changed = AUDIO_VISUAL["tensor"].model_copy(update=change)
    with pytest.raises(ValueError, match=message):
        AudioVisualParams.model_validate(changed.model_dump())


@pytest.mark.parametrize("params", [VIDEO, AUDIO_VISUAL["attention"]])
def test_rates_of_a_schedule_reach_the_network(params: AudioVisualParams) -> None:
    rates = {"drop_token_rate": 0.25, "head_dropout_rate": 0.375}
    network = build_network(apply_rates(params, TASK.schedule.model_copy(update=rates)))
    modules = list(network.modules())
    drops = [module.rate for module in modules if isinstance(module, DropToken)]
    assert drops == [0.25] * len(list_towers(params))
    assert network.dropout.p == 0.375
    encoders = [module for module in modules if isinstance(module, Encoder)]
    inner = [m.p for each in encoders for m in each.modules() if isinstance(m, Dropout)]
    assert set(inner) == {0.0}
