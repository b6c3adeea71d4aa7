import dataclasses
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from vatt.core.errors import StageError
from vatt.loading.order import Share, TrainingOrder, draw_samples, weigh

SIZES = {"audioset": 7, "howto100m": 40}


@pytest.mark.parametrize(("num_samples", "batch_size"), [(7, 3), (10, 5), (3, 8), (1000, 64)])
def test_every_sample_comes_once_in_an_epoch(num_samples: int, batch_size: int) -> None:
    order = TrainingOrder(seed=1, batch_size=batch_size, start_step=0, num_steps=40)
    drawn = list(chain.from_iterable(order.batches([Share(0, num_samples)])))
    assert len(drawn) == 40 * batch_size
    epochs = [epoch for epoch, _ in drawn]
    assert epochs == sorted(epochs)
    for epoch in range(len(drawn) // num_samples):
        samples = Counter(sample for number, sample in drawn if number == epoch)
        assert samples == Counter(range(num_samples))


def test_epochs_are_shuffled_differently() -> None:
    order = TrainingOrder(seed=1, batch_size=200, start_step=0, num_steps=1)
    [[*drawn]] = order.batches([Share(0, 100)])
    first, second = ([sample for number, sample in drawn if number == epoch] for epoch in (0, 1))
    assert first != second
    assert first != sorted(first)
    [[*other]] = dataclasses.replace(order, seed=2).batches([Share(0, 100)])
    assert other != drawn


@pytest.mark.parametrize("weights", [None, {"audioset": 1, "howto100m": 1}])
def test_the_batch_of_a_step_is_the_same_on_any_ranks(weights: dict[str, float] | None) -> None:
    shares = weigh(SIZES, weights)
    order = TrainingOrder(seed=4, batch_size=12, start_step=0, num_steps=20)
    whole = list(order.batches(shares))
    for world_size in (2, 3, 4):
        resumed = dataclasses.replace(order, start_step=7, world_size=world_size)
        ranks = [
            list(dataclasses.replace(resumed, rank=rank).batches(shares))
            for rank in range(world_size)
        ]
        assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == whole[7:]


@pytest.mark.parametrize(
    ("weights", "block"),
    [
        ({"audioset": 1.0, "howto100m": 1.0}, [1, 1]),
        ({"audioset": 0.3, "howto100m": 0.7}, [3, 7]),
        ({"audioset": 0.125, "howto100m": 2.5}, [1, 20]),
        ({"audioset": 40, "howto100m": 30}, [4, 3]),
    ],
)
def test_sources_are_drawn_in_exact_proportion_each_in_its_own_epochs(
    weights: dict[str, float], block: list[int]
) -> None:
    shares = weigh(SIZES, weights)
    assert [share.weight for share in shares] == block
    num_draws = 280 * sum(block)
    epochs, samples = draw_samples(6, shares, np.arange(num_draws))
    is_first = samples < 7
    for number, mine in enumerate((is_first, ~is_first)):
        blocks = mine.reshape(-1, sum(block)).sum(1)
        assert (blocks == block[number]).all()
        # Spread evenly: no part of the row is more than two draws off.
        shortfall = np.cumsum(mine) - np.arange(1, num_draws + 1) * block[number] / sum(block)
        assert np.abs(shortfall).max() < 2
        size = [7, 40][number]
        pairs = Counter(zip(epochs[mine].tolist(), samples[mine].tolist(), strict=True))
        assert set(pairs.values()) == {1}
        assert len(pairs) == 280 * block[number]
        whole_epochs = 280 * block[number] // size
        assert all(
            sum((epoch, sample) in pairs for sample in range(47)) == size
            for epoch in range(whole_epochs)
        )


def test_clips_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ValueError, match="6 clips cannot be shared by 4 ranks"):
        TrainingOrder(seed=3, batch_size=6, start_step=0, num_steps=5, world_size=4)


def test_weights_with_many_digits_need_no_list() -> None:
    shares = weigh({"a": 10**7, "b": 10**5}, {"a": 0.123457, "b": 0.876543})
    _, samples = draw_samples(0, shares, np.arange(10**9, 10**9 + 100_000))
    assert (samples < 10**7).mean() == pytest.approx(0.123457, abs=1e-4)


def test_a_source_of_weight_0_is_left_out() -> None:
    assert weigh(SIZES, {"audioset": 0, "howto100m": 2}) == [Share(7, 40, 1)]
    assert weigh(SIZES, {"audioset": 1, "howto100m": 0}) == [Share(0, 7, 1)]
    assert weigh(SIZES, None) == [Share(0, 47)]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"audioset": 1.0}, r"needs a weight for each source .*\(audioset, howto100m\)"),
        ({"audioset": 1.0, "howto100m": 1.0, "typo": 1.0}, "and for no other"),
        ({"audioset": 0.0, "howto100m": 0.0}, "are not all 0"),
        ({"audioset": 0.12345678901, "howto100m": 1.0}, "have few digits"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(StageError, match=f"pretrain.source_weights = .*{message}"):
        weigh(SIZES, weights)
