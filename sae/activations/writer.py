"""Writing a store: rows come in parts, in any order and from any number of processes; shards are made of them.

First every part is written (`parts.py`), then every shard, then the manifest; each by one rename, so whoever is killed
loses at most the part or the shard that it was at. Memory holds one part or one shard.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.activations.claims import Claims
from sae.activations.encoding import bits
from sae.activations.files import Columns, drop_leftovers, file_sha256, replace_file, write_columns
from sae.activations.layout import Layout
from sae.activations.parts import PLACE, TOTALS, Part, PartBuilder
from sae.activations.shards import OpenShard
from sae.activations.store import MANIFEST, STATISTICS, Manifest, Norms, Shard, Store
from sae.config import Failure
from sae.statistics import geometric_median

PARTS = ".parts"
MEDIAN_ROWS = 8192  # that the geometric median is taken from

Produce = Callable[[int, PartBuilder], None]


class StoreWriter:
    """Writes the store of one split.

    Args:
        directory: working folder; it is the store when `finish` returns.
        layout: the plan.
        bounds: number of the first row of each part, and at the end the number of rows.
        parts: folder of the parts; one in the working folder if left out. Workers on other machines may share it.
    """

    def __init__(self, directory: Path, layout: Layout, bounds: Sequence[int], parts: Path | None = None) -> None:
        self.directory, self.layout, self.bounds = directory, layout, list(bounds)
        self.parts = directory / PARTS if parts is None else parts
        for folder in (self.directory, self.parts):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self.bounds) - 1

    def part_path(self, part: int) -> Path:
        """The file of a part."""
        return self.parts / f"part-{part:05d}.safetensors"

    def has_part(self, part: int) -> bool:
        """Whether a part is finished; all are where another process has finished the store."""
        return self.part_path(part).exists() or self._finished()

    def write_parts(
        self, produce: Produce, share: tuple[int, int] = (0, 1), progress: Callable[[int], None] = lambda _: None
    ) -> None:
        """Return when every part of this share is there; those that another process is at are waited for.

        Args:
            produce: gives the rows of a part to its builder.
            share: (i, n): of every n parts the one that leaves i.
            progress: called with the number of rows of each part that was there already or that another process wrote;
                for those that this process writes, `produce` speaks itself.
        """
        own: set[int] = set()

        def write(part: int) -> None:
            own.add(part)
            builder = PartBuilder(self.layout, self.bounds[part], self.bounds[part + 1])
            produce(part, builder)
            builder.save(self.part_path(part))

        numbers = range(share[0], self.count, share[1])
        there = {part for part in numbers if self.has_part(part)}
        for part in there:
            progress(self._rows(part))
        with Claims(self.parts / "parts.claims") as claims:
            claims.work_off([part for part in numbers if part not in there], self.has_part, write)
        for part in set(numbers) - there - own:
            progress(self._rows(part))

    def finish(self, inputs: Mapping[str, str], about: Mapping[str, Any] | None = None) -> Manifest:
        """Make shards and manifest of the parts, and drop these.

        Args:
            inputs: hashes of all that went in.
            about: more to say in the manifest: see `Manifest.about`.

        Raises:
            Failure: parts are missing or damaged, or the disk is full.
        """
        try:
            if not self._finished():
                self._make(inputs, about or {})
        except (Failure, FileNotFoundError):
            if not self._finished():  # else another process did, and has dropped the parts
                raise
        self.drop_parts()
        return Store(self.directory).manifest

    def _make(self, inputs: Mapping[str, str], about: Mapping[str, Any]) -> None:
        if missing := [part for part in range(self.count) if not self.part_path(part).exists()]:
            raise Failure(
                f"{len(missing)} of the {self.count} parts of this capture are missing",
                where=str(self.parts),
                found="no part " + ", ".join(map(str, missing[:10])),
            )
        parts = [Part(self.part_path(part)) for part in range(self.count)]
        with Claims(self.parts / "shards.claims") as claims:
            claims.work_off(
                range(self.layout.shards),
                lambda shard: self._record(shard).exists() or self._finished(),
                lambda shard: self._write_shard(shard, parts),
            )
            last = self.layout.shards
            claims.work_off([last], lambda _: self._finished(), lambda _: self._write_manifest(parts, inputs, about))

    def drop_parts(self) -> None:
        """Remove what only resuming needed."""
        shutil.rmtree(self.parts, ignore_errors=True)
        drop_leftovers(self.directory)

    def _finished(self) -> bool:
        return (self.directory / MANIFEST).exists()

    def _rows(self, part: int) -> int:
        return self.bounds[part + 1] - self.bounds[part]

    def _record(self, shard: int) -> Path:
        return self.parts / f"shard-{shard:05d}.json"

    def _write_shard(self, shard: int, parts: Sequence[Part]) -> None:
        first = shard * self.layout.shard_rows
        pieces = [part.between(first, first + self.layout.shard_rows) for part in parts]
        order = torch.cat([piece[PLACE] for piece in pieces]).argsort()
        columns: Columns = {}
        for name in pieces[0]:
            if name != PLACE:
                stored = pieces[0][name]
                columns[name] = torch.cat([bits(piece[name]) for piece in pieces])[order].view(stored.dtype)
        path = self.directory / self.layout.shard_name(shard)
        write_columns(path, columns)
        record = {"file": path.name, "rows": len(order), "bytes": path.stat().st_size, "sha256": file_sha256(path)}
        replace_file(self._record(shard), lambda fresh: fresh.write_text(json.dumps(record)))

    def _write_manifest(self, parts: Sequence[Part], inputs: Mapping[str, str], about: Mapping[str, Any]) -> None:
        shards = [Shard(**json.loads(self._record(shard).read_text())) for shard in range(self.layout.shards)]
        shards = [shard for shard in shards if shard.rows]
        rows = sum(shard.rows for shard in shards)
        statistics: Columns = {}
        norms = {}
        for name in self.layout.hook_points:
            total = {kind: [part.total(name, kind) for part in parts] for kind in TOTALS}
            statistics[f"{name}/mean"] = (torch.stack(total["sum"]).sum(0) / rows).float()
            statistics[f"{name}/geometric_median"] = geometric_median(self._sample(shards, name)).float()
            norms[name] = Norms(
                mean=float(torch.stack(total["norm_sum"]).sum() / rows),
                rms=float((torch.stack(total["square_sum"]).sum() / rows).sqrt()),
                max=float(torch.stack(total["norm_max"]).max()),
            )
        write_columns(self.directory / STATISTICS, statistics)
        Manifest(
            split=self.layout.split,
            hook_points=dict(self.layout.hook_points),
            dtype=self.layout.dtype,
            format=self.layout.format,
            rows=rows,
            left_out=self.layout.rows - rows,
            shuffle_seed=self.layout.shuffle_seed,
            context=self.layout.context,
            norms=norms,
            shards=shards,
            inputs=dict(inputs),
            about=dict(about),
        ).save(self.directory)

    def _sample(self, shards: Sequence[Shard], name: str) -> Tensor:
        """Rows in equal distances over the whole split, in float64."""
        rows = sum(shard.rows for shard in shards)
        wanted = np.linspace(0, rows - 1, min(rows, MEDIAN_ROWS)).round().astype(np.int64)
        pieces, first = [], 0
        for shard in shards:
            here = torch.from_numpy(wanted[(wanted >= first) & (wanted < first + shard.rows)] - first)
            if len(here):
                pieces.append(OpenShard(self.directory / shard.file, self.layout.dtype, [name]).rows(name, here).double())
            first += shard.rows
        return torch.cat(pieces)
