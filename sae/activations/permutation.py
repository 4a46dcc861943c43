"""A random permutation that is a function: the place of one row is computed without making the list of all places."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sae.config import derive_seed

Rows = NDArray[np.uint64]
_ROUNDS = 6


class Permutation:
    """A bijection of 0 … rows - 1 onto itself, decided by a seed.

    A Feistel network over the smallest even number of bits that holds `rows`, walked along its cycle until the value
    falls below `rows` (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 4). Any worker computes the
    place of any row, so that several write one shuffled store without speaking to each other.
    """

    def __init__(self, rows: int, seed: int, *names: str) -> None:
        self.rows = rows
        self._half = np.uint64(max(1, ((max(rows, 2) - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = [np.uint64(derive_seed(seed, *names, f"round {i}")) for i in range(_ROUNDS)]

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of these row numbers."""
        places = self._encrypt(rows.astype(np.uint64))
        outside = np.flatnonzero(places >= self.rows)
        while len(outside):
            places[outside] = self._encrypt(places[outside])
            outside = outside[places[outside] >= self.rows]
        return places.astype(np.int64)

    def _encrypt(self, values: Rows) -> Rows:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half) | right


def _mix(values: Rows) -> Rows:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): every input bit moves every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
