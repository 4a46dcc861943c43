"""Parts: consecutive rows of a split, captured together and kept until the shards are made of them.

A part is the unit of resuming and of parallel work. Its rows lie in the order of their places, so that those of one shard
lie together. Shapes: N rows of a part, D dimensions of an activation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae.activations.encoding import SCALE, TORCH, bits, decode, encode, is_scaled
from sae.activations.files import Columns, read_columns, write_columns
from sae.activations.layout import ORIGIN, Layout, Numbers
from sae.config import Failure

PLACE = "/place"
TOTALS = ("sum", "norm_sum", "square_sum", "norm_max")


class PartBuilder:
    """Takes in the rows of one part, in any order, some perhaps not at all.

    Args:
        layout: of the store.
        first: number of the part's first row.
        stop: number after its last.
    """

    def __init__(self, layout: Layout, first: int, stop: int) -> None:
        self.layout, self.first = layout, first
        places = layout.places(np.arange(first, stop, dtype=np.int64))
        order = np.argsort(places, kind="stable")
        self._slots = np.empty_like(order)
        self._slots[order] = np.arange(len(order))
        self._written = torch.zeros(len(order), dtype=torch.bool)
        self._columns: Columns = {PLACE: torch.from_numpy(places[order])}
        for name, width in layout.hook_points.items():
            self._columns[name] = torch.empty(len(order), width, dtype=TORCH[layout.dtype])
            if is_scaled(layout.dtype):
                self._columns[name + SCALE] = torch.empty(len(order))
        self._columns |= {name: torch.empty(len(order), dtype=torch.int32) for name in ORIGIN}
        self._totals: Columns = {}
        for name, width in layout.hook_points.items():
            self._totals[f"{name}/sum"] = torch.zeros(width, dtype=torch.float64)
            self._totals |= {f"{name}/{total}": torch.zeros((), dtype=torch.float64) for total in TOTALS[1:]}

    def write(self, numbers: Numbers, activations: dict[str, Tensor], origin: dict[str, Tensor]) -> None:
        """Take rows in.

        Args:
            numbers: of the rows, within the split.
            activations: [n, D] by hook point.
            origin: `document`, `position` and `token`, [n] each.

        Raises:
            Failure: an activation is not finite in the stored data type.
        """
        slots = torch.from_numpy(self._slots[numbers - self.first])
        self._written[slots] = True
        for name in ORIGIN:
            self._columns[name][slots] = origin[name].to(torch.int32)
        for name, x in activations.items():
            stored, scale = encode(x, self.layout.dtype)
            exact = decode(stored, scale).float()
            # Sums in float64 are taken on the CPU: not every device has that type.
            norms = torch.linalg.vector_norm(exact, dim=-1).cpu().double()
            if not torch.isfinite(norms).all():
                raise Failure(
                    f"activations overflow {self.layout.dtype} or are not finite",
                    where=name,
                    expected="activations.dtype: bfloat16 or float32",
                )
            bits(self._columns[name])[slots] = bits(stored).cpu()
            if scale is not None:
                self._columns[name + SCALE][slots] = scale.cpu()
            self._totals[f"{name}/sum"] += exact.cpu().sum(0, dtype=torch.float64)
            self._totals[f"{name}/norm_sum"] += norms.sum()
            self._totals[f"{name}/square_sum"] += norms.square().sum()
            if len(norms):
                self._totals[f"{name}/norm_max"] = torch.maximum(self._totals[f"{name}/norm_max"], norms.max())

    def save(self, path: Path) -> None:
        """Write the part; rows that never came are left out."""
        columns = self._columns
        if not bool(self._written.all()):
            kept = self._written.nonzero().squeeze(1)
            columns = {name: bits(column)[kept].view(column.dtype) for name, column in columns.items()}
        write_columns(path, columns | self._totals)


class Part:
    """A part on the disk, mapped."""

    def __init__(self, path: Path) -> None:
        self._columns = read_columns(path)
        self._places = self._columns[PLACE].numpy()

    @property
    def rows(self) -> int:
        """How many it holds."""
        return len(self._places)

    def between(self, first: int, stop: int) -> Columns:
        """Its rows with places from `first` to before `stop`, in the order of their places."""
        start, end = np.searchsorted(self._places, [first, stop])
        totals = tuple(f"/{total}" for total in TOTALS)
        return {name: column[start:end] for name, column in self._columns.items() if not name.endswith(totals)}

    def total(self, hook_point: str, name: str) -> Tensor:
        """One of `TOTALS` over all its rows: the sum [D] of activations, and of their norms sum, squares and maximum."""
        return self._columns[f"{hook_point}/{name}"]
