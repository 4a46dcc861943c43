"""Batches from a store, in an order that is a function of seed and epoch.

Needs neither the language model nor its libraries. Shapes: B tokens in a batch, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sae.activations.store import Store
from sae.config import InputError, generator


class StoreSource:
    """A store as a source of training batches: one hook point, every row once an epoch, for ever.

    An epoch visits the shards in a random order and the rows of a shard in a random order; since rows were shuffled over
    the whole split when the store was written, a batch is a fair sample of the split. Memory holds one shard. Rows of special
    tokens, which a store of sequences keeps in place, are left out.

    Args:
        directory: of a store.
        hook_point: which of its hook points; the only one if left out.
    """

    def __init__(self, directory: Path, hook_point: str | None = None) -> None:
        self.store = Store(directory)
        self.hook_point = next(iter(self.store.manifest.hook_points)) if hook_point is None else hook_point
        self.store.check_hook_point(self.hook_point, "sae.hook_point")
        self._kept = [self._kept_rows(index) for index in range(len(self.store.manifest.shards))]
        if not self.rows:
            raise InputError("this store has no rows but those of special tokens", where=str(directory))

    @property
    def hook_points(self) -> list[str]:
        return [self.hook_point]

    @property
    def widths(self) -> list[int]:
        return [self.store.manifest.hook_points[self.hook_point]]

    @property
    def target_hook_points(self) -> list[str]:
        return self.hook_points

    @property
    def target_widths(self) -> list[int]:
        return self.widths

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return sum(len(kept_N) for kept_N in self._kept)

    def batches(self, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of the same batch [B, D] in float32, as input and as target.

        A batch may begin in one epoch and end in the next, so that none is partial.
        """
        parts: list[Tensor] = []
        have = 0
        for rows_ND in self._pieces(start * batch_size, seed):
            while have + len(rows_ND) >= batch_size:
                taken, rows_ND = rows_ND[: batch_size - have], rows_ND[batch_size - have :]
                x_BD = torch.cat([*parts, taken]).float()
                yield x_BD, x_BD
                parts, have = [], 0
            if len(rows_ND):
                parts.append(rows_ND)
                have += len(rows_ND)

    def _pieces(self, skip: int, seed: int) -> Iterator[Tensor]:
        """The rows from number `skip` of the endless order on, a shard at a time."""
        epoch, skip = divmod(skip, self.rows)
        while True:
            order = torch.randperm(len(self._kept), generator=generator(seed, "loader", f"epoch {epoch}"))
            for index in order.tolist():
                kept_N = self._kept[index]
                if skip >= len(kept_N):
                    skip -= len(kept_N)
                    continue
                stream = generator(seed, "loader", f"epoch {epoch}", f"shard {index}")
                chosen = kept_N[torch.randperm(len(kept_N), generator=stream)[skip:]]
                yield self.store.read_shard(index, [self.hook_point])[self.hook_point][chosen]
                skip = 0
            epoch += 1

    def _kept_rows(self, index: int) -> Tensor:
        """Numbers of the rows of a shard that are served: all but those of special tokens."""
        special = self.store.manifest.special_tokens
        if not special:
            return torch.arange(self.store.manifest.shards[index].rows)
        token_N = self.store.read_shard(index, ["token"])["token"]
        return torch.isin(token_N, torch.tensor(special, dtype=token_N.dtype), invert=True).nonzero().squeeze(-1)
