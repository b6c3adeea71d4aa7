"""Fusions of two features against slow loops."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vatt.model.classifier import (
    CompactBilinear,
    Concatenation,
    CountSketch,
    FusionParams,
    Kind,
    MidFusion,
    TensorFusion,
    build_fusion,
)
from vatt.params import TowerSize

SIZE = TowerSize(num_layers=1, width=8, mlp_width=12, num_heads=2, head_width=4)


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
    fusion = MidFusion(5, 7, SIZE, 0.0).eval()
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
    params = FusionParams(kind=kind, width=16, size=SIZE, dropout_rate=0.0)
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
