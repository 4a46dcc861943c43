"""Batches from a store, in an order that is a function of seed and epoch.

Needs neither the language model nor its libraries. Shapes: B tokens in a batch, N rows of a shard, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.activations.ahead import Ahead
from sae.activations.encoding import SCALE, bits, decode
from sae.activations.shards import OpenShard
from sae.activations.store import Store
from sae.config import InputError, generator

MAPPED = 4096  # shards at most that stay mapped; Linux allows a process 65,530 mappings
BLOCK = 8  # rows of a shuffled store that stay together: memory reads neighbours much faster, and they are strangers
Raw = dict[str, Tensor]  # stored columns by name, scales included


@dataclass
class _Piece:
    """Rows of one shard, in the order in which they are served."""

    shard: OpenShard
    rows_N: NDArray[np.int64]

    def take(self, count: int) -> _Piece:
        """The first rows, which are then gone from here."""
        taken, self.rows_N = self.rows_N[:count], self.rows_N[count:]
        return _Piece(self.shard, taken)


class StoreSource:
    """A store as a source of training batches: every row once an epoch, for ever.

    An epoch visits the shards in a random order and the rows of a shard in a random order, eight neighbours at a time;
    since rows were shuffled over the whole split when the store was written, a batch is a fair sample of the split. A thread
    reads ahead; only the rows of a few batches are in memory. Rows of special tokens, which a store of sequences keeps in
    place, are left out.

    Args:
        directory: of a store.
        hook_points: which of its hook points stand side by side in an input, in this order; `*` as in
            `Store.match_hook_points`. The first one if left out.
        target_hook_points: the same for targets; the inputs if left out.
        device: where batches are wanted. On CUDA they are copied there while the one before is used.
        ahead: how many batches are read before they are asked for.

    Raises:
        InputError: no such store or hook point, or a store with nothing to learn from.
        Failure: a damaged store.
    """

    def __init__(
        self,
        directory: str | Path,
        hook_points: str | Sequence[str] | None = None,
        target_hook_points: str | Sequence[str] | None = None,
        *,
        device: torch.device | str = "cpu",
        ahead: int = 2,
    ) -> None:
        self.store = Store(directory)
        self.device, self.ahead = torch.device(device), ahead
        first = next(iter(self.store.manifest.hook_points))
        self.hook_points = self.store.match_hook_points(_names(hook_points, [first]), "sae.hook_points")
        targets = _names(target_hook_points, self.hook_points)
        self.target_hook_points = self.store.match_hook_points(targets, "sae.target_hook_points")
        self._mapped: dict[int, OpenShard] = {}
        self._kept = [self._kept_rows(index) for index in range(len(self.store.manifest.shards))]
        if not self.rows:
            raise InputError("this store has no rows but those of special tokens", where=str(directory))

    @property
    def widths(self) -> list[int]:
        return [self.store.manifest.hook_points[name] for name in self.hook_points]

    @property
    def target_widths(self) -> list[int]:
        return [self.store.manifest.hook_points[name] for name in self.target_hook_points]

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return sum(_count(kept) for kept in self._kept)

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of inputs and targets [B, D] in float32; one object where the targets are the inputs.

        A batch may begin in one epoch and end in the next, so that none is partial.
        """
        raw: Iterator[Raw] = (
            Ahead(self._raw(batch_size, seed, start), self.ahead) if self.ahead else self._raw(batch_size, seed, start)
        )
        if self.device.type == "cuda":
            raw = _copied_ahead(raw, self.device)
        for columns in raw:
            x_BD = self._side_by_side(columns, self.hook_points)
            same = self.target_hook_points == self.hook_points
            yield x_BD, x_BD if same else self._side_by_side(columns, self.target_hook_points)

    def _side_by_side(self, columns: Raw, names: Sequence[str]) -> Tensor:
        parts = [decode(columns[name], columns.get(name + SCALE)).to(self.device).float() for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _raw(self, batch_size: int, seed: int, start: int) -> Iterator[Raw]:
        """Batches as they are stored, from number `start` on."""
        parts: list[_Piece] = []
        have = 0
        # Memory that is used again is several times faster than fresh. Whoever gets a batch has copied it before it asks for
        # the next: to a type of its own, or to a device; but not at once to CUDA, whose memory allocator knows when.
        reuse = self.store.manifest.dtype != "float32" and self.device.type != "cuda"
        buffers: Iterator[Raw] = cycle([{} for _ in range(self.ahead + 2)]) if reuse else iter(dict, None)
        for piece in self._pieces(start * batch_size, seed):
            while have + len(piece.rows_N) >= batch_size:
                yield self._gather([*parts, piece.take(batch_size - have)], batch_size, next(buffers))
                parts, have = [], 0
            if len(piece.rows_N):
                parts.append(piece)
                have += len(piece.rows_N)

    def _gather(self, pieces: list[_Piece], batch_size: int, columns: Raw) -> Raw:
        """The rows of a batch, copied out of the shards. NumPy does so in one thread and without Python's lock."""
        for name, sample in pieces[0].shard.stored.items():
            if name not in columns:
                pinned = self.device.type == "cuda"
                columns[name] = torch.empty(batch_size, *sample.shape[1:], dtype=sample.dtype, pin_memory=pinned)
            into, done = bits(columns[name]).numpy(), 0
            for piece in pieces:
                count = len(piece.rows_N)
                # "clip" checks no bounds one by one; the rows are numbers of this shard's.
                np.take(bits(piece.shard.stored[name]).numpy(), piece.rows_N, axis=0, out=into[done : done + count], mode="clip")
                done += count
        return columns

    def _pieces(self, skip: int, seed: int) -> Iterator[_Piece]:
        """The rows from number `skip` of the endless order on, a shard at a time."""
        names = list(dict.fromkeys([*self.hook_points, *self.target_hook_points]))
        epoch, skip = divmod(skip, self.rows)
        while True:
            order = torch.randperm(len(self._kept), generator=generator(seed, "loader", f"epoch {epoch}"))
            for index in order.tolist():
                kept = self._kept[index]
                if skip >= _count(kept):
                    skip -= _count(kept)
                    continue
                stream = generator(seed, "loader", f"epoch {epoch}", f"shard {index}")
                yield _Piece(self._opened(index, names), _shuffled(kept, stream)[skip:].numpy())
                skip = 0
            epoch += 1

    def _opened(self, index: int, names: list[str]) -> OpenShard:
        """A shard, opened. Mapped ones stay so, since mapping them anew costs as much as reading them; Parquet is memory."""
        if index not in self._mapped:
            shard = self.store.open_shard(index, names)
            if self.store.manifest.format != "safetensors" or len(self._mapped) >= MAPPED:
                return shard
            self._mapped[index] = shard
        return self._mapped[index]

    def _kept_rows(self, index: int) -> Tensor | int:
        """Numbers of the rows of a shard that are served: all but those of special tokens. Only how many, if that is all."""
        if self.store.manifest.context is None:
            return self.store.manifest.shards[index].rows
        return (self.store.read_shard(index, ["document"])["document"] >= 0).nonzero().squeeze(-1)


def _copied_ahead(batches: Iterator[Raw], device: torch.device) -> Iterator[Raw]:
    """The same batches on a CUDA device; the next one is copied, on a stream of its own, while one is used."""
    copying = torch.cuda.Stream(device)

    def copied() -> Raw:
        columns = next(batches)
        with torch.cuda.stream(copying):
            return {name: column.to(device, non_blocking=True) for name, column in columns.items()}

    coming = copied()
    while True:
        using = torch.cuda.current_stream(device)
        using.wait_stream(copying)
        ready = coming
        for column in ready.values():
            column.record_stream(using)  # lest its memory be given to the next copy while it is still read
        coming = copied()
        yield ready


def _names(given: str | Sequence[str] | None, default: Sequence[str]) -> Sequence[str]:
    if given is None:
        return default
    return [given] if isinstance(given, str) else given


def _shuffled(kept: Tensor | int, stream: torch.Generator) -> Tensor:
    """The rows of a shard in a random order: one by one where neighbours belong together, else a few at a time."""
    if not isinstance(kept, int):
        return kept[torch.randperm(len(kept), generator=stream)]
    blocks_N = torch.randperm(-(-kept // BLOCK), generator=stream)
    rows_N = (blocks_N[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
    return rows_N[rows_N < kept]


def _count(kept: Tensor | int) -> int:
    return kept if isinstance(kept, int) else len(kept)
