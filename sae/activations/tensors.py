"""Rows that someone has already, in memory or in one file, as a source of training batches.

Shapes: B rows in a batch, N rows in all, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae.config import Failure, InputError, generator, nearest_name


class TensorSource:
    """Rows as a source: every row once an epoch, in an order that seed and epoch decide, for ever.

    Args:
        x_ND: inputs; hook points side by side. A tensor that is mapped from a file stays there: only the rows of a batch
            are read.
        y_ND: targets, row by row; none: the input is its own target.
        widths: dimensions of each hook point of an input; one hook point if left out.
        target_widths: the same of a target.

    Raises:
        InputError: shapes or widths that do not fit each other.
    """

    def __init__(
        self, x_ND: Tensor, y_ND: Tensor | None = None, *, widths: list[int] | None = None, target_widths: list[int] | None = None
    ) -> None:
        self.widths = _check_widths(x_ND, widths, "widths")
        self.target_widths = self.widths if y_ND is None else _check_widths(y_ND, target_widths, "target_widths")
        if y_ND is not None and len(y_ND) != len(x_ND):
            raise InputError("a target for every input", where="y_ND", found=len(y_ND), expected=len(x_ND))
        self.x_ND, self.y_ND = x_ND, y_ND

    @property
    def hook_points(self) -> list[str]:
        return [f"rows.{i}" for i in range(len(self.widths))]

    @property
    def target_hook_points(self) -> list[str]:
        return self.hook_points if self.y_ND is None else [f"target.{i}" for i in range(len(self.target_widths))]

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of inputs and targets [B, D] in float32. A batch may begin in one epoch and end in the next."""
        rows = len(self.x_ND)
        epoch, skip = divmod(start * batch_size, rows)
        order_N = self._order(seed, epoch)[skip:]
        while True:
            while len(order_N) < batch_size:
                epoch += 1
                order_N = torch.cat([order_N, self._order(seed, epoch)])
            chosen_B, order_N = order_N[:batch_size], order_N[batch_size:]
            x_BD = self.x_ND[chosen_B].float()
            yield x_BD, x_BD if self.y_ND is None else self.y_ND[chosen_B].float()

    def _order(self, seed: int, epoch: int) -> Tensor:
        return torch.randperm(len(self.x_ND), generator=generator(seed, "rows", f"epoch {epoch}"))


def map_tensor(path: Path, name: str | None = None, *, lone: bool = False) -> Tensor:
    """A tensor that stays in its file, an `.npy` or a `.safetensors`, until rows of it are asked for; or a column of a
    `.parquet` file, which is read.

    Args:
        path: the file.
        name: which tensor or column, where the file names them; the only one if left out.
        lone: take the only one too if it has another name.

    Raises:
        InputError: no such tensor, or a file of another kind.
        Failure: the file is damaged.
    """
    if path.suffix not in (".npy", ".safetensors", ".parquet"):
        raise InputError("rows come from an .npy, .safetensors or .parquet file", found=str(path))
    try:
        if path.suffix == ".npy":
            # Copy on write: torch wants memory that it may write to, and nothing here writes.
            return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
        if path.suffix == ".parquet":
            return _column(path, name, lone)
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(_choose(path, list(file.keys()), name, lone))
            return tensor
    except FileNotFoundError:
        raise InputError("no such file", found=str(path)) from None
    except (SafetensorError, ValueError, OSError) as error:
        raise Failure(f"this file is damaged: {error}", where=str(path)) from None


def _column(path: Path, name: str | None, lone: bool) -> Tensor:
    """A column of lists of one length, or of numbers, as [rows, dimensions]."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = [f.name for f in pq.read_schema(path) if pa.types.is_list(f.type) or pa.types.is_fixed_size_list(f.type)]
    name = _choose(path, lists, name, lone)
    array = pq.read_table(path, columns=[name]).column(name).combine_chunks()
    values, rows = array.flatten().to_numpy(zero_copy_only=False), len(array)
    lengths = set(array.value_lengths().unique().to_pylist()) if pa.types.is_list(array.type) else {array.type.list_size}
    if len(lengths) != 1 or None in lengths or len(values) != rows * max(lengths):
        raise InputError("this column's lists differ in length", where=str(path), found=name)
    return torch.from_numpy(values.copy()).view(rows, -1)


def _choose(path: Path, names: list[str], name: str | None, lone: bool) -> str:
    if name in names:
        return str(name)
    if len(names) == 1 and (name is None or lone):
        return names[0]
    if name is None:
        raise InputError("this file holds several tensors; name one", where=str(path), found=", ".join(names))
    raise InputError(
        "this file holds no such tensor",
        where=str(path),
        found=name,
        expected=", ".join(names),
        nearest=nearest_name(name, names),
    )


def _check_widths(rows_ND: Tensor, widths: list[int] | None, where: str) -> list[int]:
    if rows_ND.ndim != 2 or not len(rows_ND):
        raise InputError("rows are a tensor [rows, dimensions]", found=list(rows_ND.shape))
    widths = [rows_ND.shape[1]] if widths is None else list(widths)
    if sum(widths) != rows_ND.shape[1]:
        raise InputError("widths that do not sum to the rows'", where=where, found=widths, expected=rows_ND.shape[1])
    return widths
