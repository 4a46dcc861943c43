"""Where every row of a split goes: a pure function, so that any number of workers writes the same store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sae.activations.encoding import StoredType, row_bytes
from sae.activations.files import Format
from sae.activations.permutation import Permutation

ORIGIN = ("document", "position", "token")
ORIGIN_BYTES = 12
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """The plan of a store.

    Attributes:
        split: `train` or `held_out`.
        hook_points: width of each, by name.
        rows: how many are numbered; a filter may leave some of them out, and then shards are a little smaller.
        dtype: to store activations in.
        format: of the shards.
        shard_bytes: about how large a shard may be.
        shuffle_seed: shuffle rows over the whole split; None keeps them in sequence.
        context: length of the sequences, where rows are kept in sequence.
    """

    split: str
    hook_points: dict[str, int]
    rows: int
    dtype: StoredType = "float16"
    format: Format = "safetensors"
    shard_bytes: int = 64_000_000
    shuffle_seed: int | None = None
    context: int | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, with where it came from."""
        return sum(row_bytes(self.dtype, width) for width in self.hook_points.values()) + ORIGIN_BYTES

    @property
    def bytes(self) -> int:
        """Of the whole store, but for its manifest."""
        return self.rows * self.row_bytes

    @cached_property
    def shard_rows(self) -> int:
        """Places of a shard; the last has what is left."""
        count = max(1, -(-self.bytes // self.shard_bytes))
        return max(1, -(-self.rows // count))

    @property
    def shards(self) -> int:
        """How many files."""
        return -(-self.rows // self.shard_rows)

    def shard_name(self, index: int) -> str:
        """A shard's file."""
        return f"shard-{index:05d}.{self.format}"

    def places(self, numbers: Numbers) -> Numbers:
        """Where rows of these numbers go."""
        return numbers if self._permutation is None else self._permutation(numbers)

    @cached_property
    def _permutation(self) -> Permutation | None:
        return None if self.shuffle_seed is None else Permutation(self.rows, self.shuffle_seed, "activations", self.split)
