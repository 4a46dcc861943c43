"""One shard, opened for reading.

Shapes: N rows, D dimensions of an activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sae.activations.encoding import SCALE, decode, is_scaled
from sae.activations.files import read_columns
from sae.activations.layout import ORIGIN


class OpenShard:
    """Columns of a shard. Those of safetensors are mapped: only the rows that are asked for are read.

    Args:
        path: its file.
        dtype: what activations are stored in.
        names: hook points, or `document`, `position`, `token`.

    Attributes:
        stored: the columns as they are stored, those of scales included.

    Raises:
        Failure: the file is missing or damaged.
    """

    def __init__(self, path: Path, dtype: str, names: Sequence[str]) -> None:
        scales = [name + SCALE for name in names if name not in ORIGIN] if is_scaled(dtype) else []
        self.stored = read_columns(path, [*names, *scales])

    def column(self, name: str) -> Tensor:
        """A whole column: activations [N, D], decoded; or where the rows came from, [N]."""
        scale_N = self.stored.get(name + SCALE)
        return decode(self.stored[name], scale_N)

    def rows(self, name: str, rows_N: Tensor) -> Tensor:
        """Some rows of a column, by number."""
        scale_N = self.stored.get(name + SCALE)
        return decode(self.stored[name][rows_N], None if scale_N is None else scale_N[rows_N])
