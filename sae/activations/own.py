"""A store of activations that someone has already, from anywhere; no language model is needed.

Shapes: N rows, D dimensions of an activation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae.activations.encoding import NOT_IN_PARQUET, StoredType
from sae.activations.files import Format, file_sha256
from sae.activations.layout import ORIGIN, Layout
from sae.activations.parts import PartBuilder
from sae.activations.store import Manifest
from sae.activations.tensors import map_tensor
from sae.activations.writer import StoreWriter
from sae.config import InputError

Given = Tensor | np.ndarray | str | Path | Sequence[str | Path]


def store_tensors(
    given: Mapping[str, Given],
    directory: str | Path,
    *,
    split: str = "train",
    origin: Mapping[str, Tensor] | None = None,
    dtype: StoredType = "float16",
    format: Format = "safetensors",
    shard_mb: int = 64,
    seed: int = 0,
    progress: Callable[[int], None] = lambda rows: None,
) -> Manifest:
    """Make a store, shuffled over all rows, that trains as any other does. Memory holds two or three shards.

    Args:
        given: rows [N, D] by hook point (any name will do), as a tensor or array, a `.npy`, `.safetensors` or `.parquet`
            file, or several files whose rows follow each other. Of a file with several tensors or columns, that which
            bears the hook point's name is taken. All hook points have the same rows.
        directory: of the new store; one that was not finished goes on where it stopped.
        split: what the store is called.
        origin: `document`, `position` and `token` [N] of the rows, where they are known.
        dtype: to store activations in.
        format: of the shards.
        shard_mb: about how large a shard is, in megabytes.
        seed: of the shuffle.
        progress: called with a number of rows whenever so many more are there.

    Raises:
        InputError: nothing is given, a file has no such rows, or hook points differ in their number of rows.
        Failure: a file is damaged, rows are not finite in the stored type, or the disk is full.

    Example:
        >>> import tempfile, torch
        >>> from sae.activations.loader import StoreSource
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     manifest = store_tensors({"mine": torch.randn(1000, 16)}, folder)
        ...     x_BD, _ = next(StoreSource(folder).batches(64, seed=0))
        >>> manifest.rows, x_BD.shape
        (1000, torch.Size([64, 16]))
    """
    if not given:
        raise InputError("name at least one hook point and its rows", where="given")
    pieces = {name: _rows(name, value) for name, value in given.items()}
    counts = {name: sum(map(len, tensors)) for name, tensors in pieces.items()}
    if len(set(counts.values())) != 1:
        raise InputError("hook points differ in their number of rows", found=str(counts))
    rows = next(iter(counts.values()))
    layout = Layout(
        split=split,
        hook_points={name: tensors[0].shape[1] for name, tensors in pieces.items()},
        rows=rows,
        dtype=dtype,
        format=format,
        shard_bytes=shard_mb * 1_000_000,
        shuffle_seed=seed,
    )
    if format == "parquet" and dtype in NOT_IN_PARQUET:
        raise InputError("Parquet has no such type", where="dtype", found=dtype, expected="float32, float16 or int8")
    columns = {"document": torch.zeros(1), "position": torch.arange(rows), "token": torch.zeros(1), **(origin or {})}
    columns = {name: column.expand(rows) for name, column in columns.items()}
    writer = StoreWriter(Path(directory), layout, [*range(0, rows, layout.shard_rows), rows])

    def produce(part: int, builder: PartBuilder) -> None:
        first, stop = writer.bounds[part], writer.bounds[part + 1]
        activations = {name: _between(tensors, first, stop) for name, tensors in pieces.items()}
        builder.write(np.arange(first, stop), activations, {name: columns[name][first:stop] for name in ORIGIN})
        progress(stop - first)

    writer.write_parts(produce, progress=progress)
    return writer.finish({f"rows of {name}": _digest(value) for name, value in given.items()})


def _rows(name: str, value: Given) -> list[Tensor]:
    """What is given for a hook point, as tensors [N, D] one after the other."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        tensors = [value]
    else:
        paths = [value] if isinstance(value, str | Path) else list(value)
        tensors = [map_tensor(Path(path), name, lone=True) for path in paths]
    shapes = [list(tensor.shape) for tensor in tensors]
    if not tensors or any(len(shape) != 2 or not shape[0] or shape[1] != shapes[0][1] for shape in shapes):
        raise InputError("rows are tensors [rows, dimensions] of one width", where=name, found=str(shapes))
    return tensors


def _between(tensors: Sequence[Tensor], first: int, stop: int) -> Tensor:
    """Rows from `first` to before `stop` of tensors that follow each other."""
    parts, start = [], 0
    for tensor in tensors:
        parts.append(tensor[max(0, first - start) : max(0, stop - start)])
        start += len(tensor)
    return torch.cat([part for part in parts if len(part)])


def _digest(value: Given) -> str:
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().contiguous().cpu().view(torch.uint8).numpy() if isinstance(value, Tensor) else value
        return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    paths = [value] if isinstance(value, str | Path) else list(value)
    return hashlib.sha256("".join(file_sha256(Path(path)) for path in paths).encode()).hexdigest()
