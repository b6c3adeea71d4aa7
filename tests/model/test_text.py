"""The text tower: relative positions against a walk through T5's buckets, and padding."""

from typing import Any

import pytest
import torch

from tests import reference
from tests.tiny import TINY_MODEL
from vatt.model.text import relative_buckets
from vatt.model.towers import build_text_tower
from vatt.params import ClipParams, TowerSize

SIZE = TowerSize(num_layers=2, width=16, mlp_width=32, num_heads=2, head_width=8)
CLIP = ClipParams(num_frames=2, frame_size_px=8, num_samples=512, num_tokens=4, num_candidates=1)


def build_tower(style: str = "t5", size: TowerSize = SIZE) -> Any:
    torch.manual_seed(0)
    update = {"text": size, "text_style": style, "word_width": 6, "dropout_rate": 0.0}
    return build_text_tower(TINY_MODEL.model_copy(update=update), CLIP, vocab_size=30).eval()


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 64), (32, 128), (8, 6)])
def test_buckets(num_buckets: int, max_distance: int) -> None:
    offsets = torch.arange(-150, 151)
    expected = [
        reference.relative_bucket(int(offset), num_buckets, max_distance) for offset in offsets
    ]
    assert relative_buckets(offsets, num_buckets, max_distance).tolist() == expected


@pytest.mark.parametrize("style", ["t5", "linear"])
def test_padding_changes_nothing(style: str) -> None:
    tower, ids = build_tower(style), torch.tensor([[5, 7, 2], [9, 0, 0]])
    padded = torch.nn.functional.pad(ids, (0, 4))
    torch.testing.assert_close(tower(ids), tower(padded))
    torch.testing.assert_close(tower(ids[1:, :1]), tower(padded)[1:])


def test_what_stands_in_padding_changes_nothing_with_absolute_positions() -> None:
    """There the length chooses the positions, so that it is kept."""
    tower, ids = build_tower("bert"), torch.tensor([[5, 7, 0, 0]])
    before = tower(ids)
    with torch.no_grad():
        tower.stem.words.weight[0] += 5
    torch.testing.assert_close(tower(ids), before)


@pytest.mark.parametrize("style", ["t5", "bert"])
def test_a_text_of_padding_is_encoded_from_agg_alone(style: str) -> None:
    tower, padding = build_tower(style), torch.zeros(1, 4, dtype=torch.int64)
    nothing = tower(padding)
    assert nothing.isfinite().all()
    torch.nn.init.normal_(tower.stem.words.weight)
    assert torch.equal(tower(padding), nothing)


def test_linear_text_is_the_largest_over_the_words() -> None:
    tower = build_tower("linear")
    found = tower(torch.tensor([[4, 8, 0], [0, 0, 0]]))
    weight, bias = tower.projection.weight, tower.projection.bias
    expected = torch.zeros(2, 2048)
    for word in (4, 8):
        expected[0] = torch.maximum(expected[0], weight @ tower.words.weight[word] + bias)
    torch.testing.assert_close(found[:, 0], expected)


@pytest.mark.parametrize("style", ["t5", "bert"])
def test_order_matters(style: str) -> None:
    tower = build_tower(style)
    assert not torch.allclose(tower(torch.tensor([[3, 4, 5]])), tower(torch.tensor([[5, 4, 3]])))


def test_relative_positions_serve_every_layer() -> None:
    tower = build_tower().train()
    tower(torch.tensor([[3, 4, 5]])).sum().backward()
    one_layer = build_tower(size=SIZE.model_copy(update={"num_layers": 1})).train()
    one_layer.load_state_dict(tower.state_dict(), strict=False)
    one_layer(torch.tensor([[3, 4, 5]])).sum().backward()
    ours, first = (each.stem.relative_bias.table.weight.grad for each in (tower, one_layer))
    assert not torch.allclose(ours, first)
