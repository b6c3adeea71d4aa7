"""Pseudo-random permutations that are computed place by place, without a list of what they permute.

A Feistel network permutes the numbers of an even count of bits; what falls outside the wanted range
is sent through it again until it falls inside ("cycle walking", Black and Rogaway 2002).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt64

ROUNDS = 8
MIN_HALF_BITS = 3
"""Fewer bits would mix the places of very small ranges badly."""
MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of SplitMix64
SHIFT = np.uint64(31)


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
