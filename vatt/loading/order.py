"""Which samples a step of training takes: a function of seed and step, without a list of samples.

A Feistel network permutes the numbers of an even count of bits; what falls outside the range of the
samples is sent through it again until it falls inside ("cycle walking", Black and Rogaway 2002).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from vatt.core.errors import StageError

# The first number of a seed says what it is for.
ORDER_STREAM = 1
SAMPLE_STREAM = 2
ROUNDS = 8
MIN_HALF_BITS = 3
"""Fewer bits would mix very small ranges badly."""
MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of SplitMix64
SHIFT = np.uint64(31)
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
MAX_BLOCK = 2**31


def permute(
    places: Int64[np.ndarray, " N"], size: int, seed: Sequence[int]
) -> Int64[np.ndarray, " N"]:
    """Return what stands at these places of a permutation of 0 ... size - 1.

    Every seed (numbers of 0 and more) has a permutation of its own. Time and memory do not depend
    on `size`, and the result on no version of a library.
    """
    half_bits = np.uint64(max(MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64)
    values = _mix(places.astype(np.uint64), half_bits, keys)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _mix(values[outside], half_bits, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _mix(
    values: UInt64[np.ndarray, " N"], half_bits: np.uint64, keys: UInt64[np.ndarray, " R"]
) -> UInt64[np.ndarray, " N"]:
    """Permute the numbers below 2 ** (2 * half_bits)."""
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for key in keys:
        mixed = right + key
        for multiplier in MULTIPLIERS:
            mixed = (mixed ^ (mixed >> SHIFT)) * multiplier
        left, right = right, left ^ (mixed >> (np.uint64(64) - half_bits))
    return (left << half_bits) | right


class Share(NamedTuple):
    """Samples that stand together in the corpus, drawn in proportion to a weight."""

    first_sample: int
    num_samples: int
    weight: int = 1
    """How many of each `sum of weights` draws they get."""


@dataclass(frozen=True)
class TrainingOrder:
    """Which samples a rank gets in which step."""

    seed: int
    batch_size: int
    """Samples of a step over all ranks."""
    start_step: int
    num_steps: int
    """Steps of the whole run: the last one is num_steps - 1."""
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise ValueError(f"{self.batch_size} clips cannot be shared by {self.world_size} ranks")

    def batches(self, shares: Sequence[Share]) -> Iterator[list[tuple[int, int]]]:
        """Yield for each step the (epoch, sample) pairs of this rank.

        A step takes the next `batch_size` draws, and a rank its part of them. An epoch is one of
        the share that the sample belongs to.
        """
        size = self.batch_size // self.world_size
        for step in range(self.start_step, self.num_steps):
            first = step * self.batch_size + self.rank * size
            epochs, samples = draw_samples(self.seed, shares, np.arange(first, first + size))
            yield list(zip(epochs.tolist(), samples.tolist(), strict=True))


def draw_samples(
    seed: int, shares: Sequence[Share], draws: Int64[np.ndarray, " N"]
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """Return the epoch and the sample of these draws, which are numbered without end.

    Every block of as many draws as the weights sum to holds each share as often as its weight says,
    spread evenly. The draws of a share go through epochs, each a permutation of all its samples.
    """
    ends = np.cumsum([share.weight for share in shares])
    block_size = int(ends[-1])
    # A step that visits all places of the block, neighbours far apart by the golden ratio.
    step = max(1, round(block_size * GOLDEN_RATIO))
    while math.gcd(step, block_size) != 1:
        step += 1
    block, slot = np.divmod(draws, block_size)
    slot = slot * step % block_size
    owner = np.searchsorted(ends, slot, side="right")
    epochs, samples = np.empty_like(draws), np.empty_like(draws)
    for number, share in enumerate(shares):
        mine = owner == number
        turn = block[mine] * share.weight + slot[mine] - (ends[number] - share.weight)
        epoch, place = np.divmod(turn, max(1, share.num_samples))
        sample = np.empty_like(place)
        for one in np.unique(epoch):
            chosen = epoch == one
            stream = [ORDER_STREAM, seed, share.first_sample, int(one)]
            sample[chosen] = permute(place[chosen], share.num_samples, stream)
        epochs[mine], samples[mine] = epoch, share.first_sample + sample
    return epochs, samples


def weigh(sizes: Mapping[str, int], weights: Mapping[str, float] | None) -> list[Share]:
    """Return the shares of sources that stand one behind the other in the corpus.

    `sizes` are the samples of each source, in order; `weights` how often those of each are drawn,
    in proportion. 0 leaves a source out; None draws every sample equally often.

    Raises:
        StageError: a source has no weight, or a weight no source with samples.
    """
    if weights is None:
        return [Share(0, sum(sizes.values()))]
    named = f"pretrain.source_weights = {dict(weights)}"
    if set(sizes) - set(weights) or any(weights[name] and not sizes.get(name) for name in weights):
        raise StageError(
            f"{named}: needs a weight for each source with segments to train on "
            f"({', '.join(sizes)}) and for no other; 0 leaves a source out"
        )
    fractions = {name: Fraction(str(weights[name])) for name in sizes}
    scale = math.lcm(*(fraction.denominator for fraction in fractions.values()))
    whole = {name: int(fraction * scale) for name, fraction in fractions.items()}
    divisor = math.gcd(*whole.values())
    if not divisor or sum(whole.values()) // divisor > MAX_BLOCK:
        raise StageError(f"{named}: are not all 0, and have few digits")
    firsts = accumulate(sizes.values(), initial=0)
    return [
        Share(first, sizes[name], whole[name] // divisor)
        for first, name in zip(firsts, sizes, strict=False)
        if whole[name]
    ]
