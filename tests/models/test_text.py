"""The text tower: relative positions against a walk through T5's buckets, and padding."""

import pytest
import torch

from tests import reference
from vatt.models.text import TextSize, TextTower, relative_buckets
from vatt.params import TowerSize

SIZE = TextSize(TowerSize(num_layers=2, width=16, mlp_width=32, num_heads=2, head_width=8))


def build_tower() -> TextTower:
    torch.manual_seed(0)
    return TextTower(vocab_size=30, word_width=6, size=SIZE, dropout_rate=0.0).eval()


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 64), (32, 128), (8, 6)])
def test_buckets(num_buckets: int, max_distance: int) -> None:
    offsets = torch.arange(-150, 151)
    buckets = relative_buckets(offsets, num_buckets, max_distance)
    expected = [
        reference.relative_bucket(int(offset), num_buckets, max_distance) for offset in offsets
    ]
    assert buckets.tolist() == expected


def test_padding_changes_nothing() -> None:
    tower, ids = build_tower(), torch.tensor([[5, 7, 2], [9, 0, 0]])
    padded = torch.nn.functional.pad(ids, (0, 4))
    torch.testing.assert_close(tower(ids), tower(padded))
    torch.testing.assert_close(tower(ids[1:, :1]), tower(padded)[1:])


def test_a_text_of_padding_is_encoded_from_agg_alone() -> None:
    tower = build_tower()
    nothing = tower(torch.zeros(1, 4, dtype=torch.int64))
    assert nothing.isfinite().all()
    torch.nn.init.normal_(tower.words.weight)
    assert torch.equal(tower(torch.zeros(1, 4, dtype=torch.int64)), nothing)


def test_order_matters_in_every_layer() -> None:
    tower = build_tower()
    assert not torch.allclose(tower(torch.tensor([[3, 4, 5]])), tower(torch.tensor([[5, 4, 3]])))
    tower.train()
    tower(torch.tensor([[3, 4, 5]])).sum().backward()
    one_layer = TextTower(30, 6, SIZE._replace(encoder=SIZE.encoder._replace(num_layers=1)), 0.0)
    one_layer.load_state_dict(tower.state_dict(), strict=False)
    one_layer(torch.tensor([[3, 4, 5]])).sum().backward()
    ours, first = tower.relative_bias.table.weight.grad, one_layer.relative_bias.table.weight.grad
    assert ours is not None
    assert first is not None
    assert not torch.allclose(ours, first)
