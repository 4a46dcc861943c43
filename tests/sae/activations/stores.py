"""Small stores to test with, written as any store is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.activations.layout import ORIGIN, Layout
from sae.activations.parts import PartBuilder
from sae.activations.store import Store
from sae.activations.writer import Produce, StoreWriter

POINTS = {"a": 4, "b": 3}
ROWS = 103


def rows_of(rows: int = ROWS, points: dict[str, int] = POINTS) -> dict[str, Tensor]:
    """Rows of random numbers, and origin columns from which each row's number can be told."""
    generator = torch.Generator().manual_seed(0)
    columns = {name: torch.randn(rows, width, generator=generator) for name, width in points.items()}
    number = torch.arange(rows)
    return columns | {"document": number // 10, "position": number % 10, "token": 1000 + number}


def layout_of(**more: Any) -> Layout:
    options: dict[str, Any] = {"split": "train", "hook_points": POINTS, "rows": ROWS, "shard_bytes": 1000, "shuffle_seed": 5}
    return Layout(**options | {"dtype": "float32"} | more)


def writer(directory: Path, part_rows: int = 30, **more: Any) -> StoreWriter:
    layout = layout_of(**more)
    return StoreWriter(directory, layout, [*range(0, layout.rows, part_rows), layout.rows])


def produce(columns: dict[str, Tensor], bounds: Sequence[int], batch: int = 7, without: Sequence[int] = ()) -> Produce:
    """Gives a part its rows, `batch` at a time, without those of some numbers."""

    def give(part: int, builder: PartBuilder) -> None:
        numbers = np.setdiff1d(np.arange(bounds[part], bounds[part + 1]), np.array(without, dtype=np.int64))
        for start in range(0, len(numbers), batch):
            here = numbers[start : start + batch]
            activations = {name: columns[name][here] for name in builder.layout.hook_points}
            builder.write(here, activations, {name: columns[name][here] for name in ORIGIN})

    return give


def written(directory: Path, columns: dict[str, Tensor] | None = None, *, without: Sequence[int] = (), **more: Any) -> Store:
    store = writer(directory, **more)
    columns = rows_of(store.layout.rows, store.layout.hook_points) if columns is None else columns
    store.write_parts(produce(columns, store.bounds, without=without))
    store.finish({"tokens": "abc"})
    return Store(directory)


def contents(store: Store) -> dict[str, Tensor]:
    """All rows in the order of the shards."""
    names = [*store.manifest.hook_points, *ORIGIN]
    shards = [store.read_shard(i, names) for i in range(len(store.manifest.shards))]
    return {name: torch.cat([shard[name] for shard in shards]) for name in names}


def digests(directory: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir())}
